"""Any data set on disk, described by a few lines of YAML."""

import re
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import numpy as np

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.files import read_id_map, read_picture
from segdcn.data.lists import join_below, read_list
from segdcn.data.loading import IGNORE_INDEX
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError


class Folder(SegmentationData):
    """Pictures and label PNGs anywhere below a folder.

    Where they are is told by two patterns such as `images/{split}/{name}.jpg` and
    `labels/{split}/{name}.png`; what belongs to a split by the files that match, or by a
    list (`lists: "{split}.txt"`) with a name, or an image and a label path, on each line.

    Args:
        root: Folder that everything else is relative to.
        classes: Name and colour [r, g, b] of each class, in the order of their ids 0, 1, ...
        images: Pattern of the pictures, with {name} and, if splits differ by it, {split}.
        labels: Pattern of the label PNGs, likewise.
        lists: Pattern of the lists, with {split}; null takes all pictures that match `images`.
        label_format: `ids`, one number per pixel (grey or palette PNGs), or `colours`, in
            which each class has its colour.
        id_map: Stored number to class id (or 255); null if they are the same. Numbers it
            does not name are errors.
        ignore: Stored numbers, or with `colours` colours [r, g, b], that mean "ignore", like 255.
        settings: As in SegmentationData.

    Raises:
        UserValueError: The description does not hold together.
    """

    def __init__(
        self,
        root: str,
        classes: dict[str, list[int]],
        images: str = "images/{split}/{name}.jpg",
        labels: str = "labels/{split}/{name}.png",
        lists: str | None = None,
        label_format: Literal["ids", "colours"] = "ids",
        id_map: dict[int, int] | None = None,
        ignore: list[int] | list[list[int]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(root, **settings)
        self.class_names = tuple(classes)
        self.palette = tuple(_colour(f"data.classes.{name}", colour) for name, colour in classes.items())
        self.images, self.labels, self.lists = images, labels, lists
        self.label_format, self.id_map, self.ignore = label_format, id_map, ignore or []
        self._check_description()
        self._table = _colour_table(self.palette, self.ignore) if label_format == "colours" else self._id_table()

    def list_samples(self, split: str) -> list[Sample]:
        """List what the split's list names, or what matches the pattern of pictures."""
        return self._listed_samples(split) if self.lists is not None else self._matching_samples(split)

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Read labels as class ids, by the number or the colour that is stored."""
        if self.label_format == "ids":
            stored, what = read_id_map(sample.labels).astype(np.int64), "the number"
        else:
            pixels = read_picture(sample.labels).astype(np.int64)
            stored, what = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], "the colour"
        keys, values = self._table
        place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
        known = keys[place] == stored
        if not known.all():
            wrong = int(stored[~known][0])
            told = wrong if self.label_format == "ids" else [wrong >> 16, wrong >> 8 & 255, wrong & 255]
            raise InvalidDataError(
                f"{sample.labels} holds {what} {told} in {int((~known).sum())} pixels, which is no class; "
                "see data.classes, data.id_map and data.ignore"
            )
        return values[place]

    # Listing

    def _listed_samples(self, split: str) -> list[Sample]:
        assert self.lists is not None
        path = join_below(self.root, self.lists.format(split=split), "data.lists")
        if not path.is_file():
            raise MissingFileError(
                f"{path} does not exist: no list of the split {split!r} (data.lists is {self.lists})"
            )
        samples = []
        for where, line in read_list(path):
            match _fields_of(line):
                case [name]:
                    image, labels = (pattern.format(split=split, name=name) for pattern in (self.images, self.labels))
                    pair = (name, image, labels)
                case [image, labels]:
                    pair = (Path(image).with_suffix("").as_posix(), image, labels)
                case _:
                    raise InvalidDataError(
                        f"{where} is {line!r}; expected a name, or an image and a label path "
                        "(with a tab between them if they hold spaces)"
                    )
            samples.append(
                Sample(pair[0], join_below(self.root, pair[1], where), join_below(self.root, pair[2], where))
            )
        return samples

    def _matching_samples(self, split: str) -> list[Sample]:
        pattern = self.images.replace("{split}", split)
        before, _, after = pattern.partition("{name}")
        folder = join_below(self.root, before[: before.rfind("/") + 1] or ".", "data.images")
        if not folder.is_dir():
            raise MissingFileError(f"{folder} does not exist: no pictures of the split {split!r} (data.images)")
        expression = re.compile(re.escape(before) + "(.+)" + re.escape(after))
        samples = []
        for path in sorted(folder.rglob(f"*{Path(after).suffix}")):
            match = expression.fullmatch(path.relative_to(self.root).as_posix())
            if match is not None:
                labels = self.labels.format(split=split, name=match[1])
                samples.append(Sample(match[1], path, join_below(self.root, labels, "data.labels")))
        return samples

    # The description

    def _id_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored numbers, ascending, and the class of each."""
        table = dict(self.id_map) if self.id_map is not None else {i: i for i in range(self.num_classes)}
        table = {IGNORE_INDEX: IGNORE_INDEX, **table, **{int(stored): IGNORE_INDEX for stored in self.ignore}}  # type: ignore[arg-type]
        keys = sorted(table)
        return np.array(keys, np.int64), np.array([table[key] for key in keys], np.uint8)

    def _check_description(self) -> None:
        if not 1 <= self.num_classes <= 255:
            raise UserValueError(f"data.classes names {self.num_classes} classes; expected 1 to 255")
        for given in self.class_names:
            if not isinstance(given, str):  # YAML reads yes, off and 1 as something else
                raise UserValueError(f"data.classes names {given!r}; expected text (put it in quotation marks)")
        for name in ("images", "labels"):
            pattern = getattr(self, name)
            if "{name}" not in pattern or _fields(pattern) - {"name", "split"}:
                raise UserValueError(
                    f"data.{name} is {pattern!r}; expected a path with {{name}} and perhaps {{split}} in it"
                )
        if self.label_format not in ("ids", "colours"):
            raise UserValueError(f"data.label_format is {self.label_format!r}; expected ids or colours")
        if self.lists is not None and _fields(self.lists) != {"split"}:
            raise UserValueError(f"data.lists is {self.lists!r}; expected a path with {{split}} in it, or null")
        if self.label_format == "colours" and self.id_map is not None:
            raise UserValueError("data.id_map is for label_format ids; with colours each class has its colour")
        for stored, index in (self.id_map or {}).items():
            if index != IGNORE_INDEX and not 0 <= index < self.num_classes:
                raise UserValueError(
                    f"data.id_map makes {stored} the class {index}; "
                    f"expected 0 to {self.num_classes - 1} or {IGNORE_INDEX}"
                )
        for value in self.ignore:
            if isinstance(value, int) != (self.label_format == "ids"):
                kind = "numbers" if self.label_format == "ids" else "colours [r, g, b]"
                raise UserValueError(
                    f"data.ignore holds {value}; with label_format {self.label_format} it lists {kind}"
                )


def _fields_of(line: str) -> list[str]:
    """Split a line at its tab; without one, into its words if the last is a file; else it is a name."""
    if "\t" in line:
        return [part.strip() for part in line.split("\t")]
    words = line.split()
    return words if Path(words[-1]).suffix else [line]


def _fields(pattern: str) -> set[str]:
    """Return what stands in braces, which is more than a name where it cannot be filled in."""
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:  # a brace without its other
        return {pattern}
    return {f"{name}{spec}{conversion or ''}" for _, name, spec, conversion in parts if name is not None}


def _colour(name: str, colour: Any) -> tuple[int, int, int]:
    values = tuple(colour)
    if len(values) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in values):
        raise UserValueError(f"{name} is {list(values)}; expected a colour [r, g, b] of numbers from 0 to 255")
    return values


def _colour_table(palette: tuple, ignore: list) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours as numbers, ascending, and the class of each."""
    table: dict[int, int] = {}
    named = [
        *zip(palette, range(len(palette)), strict=True),
        *((_colour("data.ignore", c), IGNORE_INDEX) for c in ignore),
    ]
    for (red, green, blue), index in named:
        key = red << 16 | green << 8 | blue
        if key in table:
            raise UserValueError(
                f"two classes have the colour {[red, green, blue]}; labels in colours need different ones"
            )
        table[key] = index
    keys = sorted(table)
    return np.array(keys, np.int64), np.array([table[key] for key in keys], np.uint8)
