"""Shapes: a generated data set whose classes differ by form alone, stored in VOC's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segdcn.data import collage
from segdcn.data.base import Sample, SegmentationData
from segdcn.data.outlines import FORMS
from segdcn.data.voc import VOC
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

# Raise when the same settings give other pixels than before.
VERSION = 1
RECORD = "dataset.json"

CLASS_NAMES = ("background", *FORMS)
PALETTE = (
    (24, 24, 32),
    (230, 80, 70),
    (250, 190, 60),
    (70, 180, 120),
    (70, 140, 230),
    (170, 100, 220),
    (240, 140, 190),
)


class Shapes(VOC):
    """Cut-paper pictures with six classes of objects that differ by form, not by colour.

    `root` is a folder written by `segdcn data make-shapes`. It has VOC's layout, with PNG
    pictures and an instance map for each (`read_instances`). What the pictures are like,
    and how large a share each class has, is told by `segdcn.data.collage` and `make`.

    Args and batches are those of `SegmentationData`.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    palette: tuple[tuple[int, int, int], ...] = PALETTE
    image_suffix: str = ".png"
    # No server takes them: class ids with a palette, not VOC's tree.
    write_prediction = SegmentationData.write_prediction

    def list_samples(self, split: str) -> list[Sample]:
        """List the names of a split, after a look at the record that `make` writes last."""
        record = self.root / RECORD
        again = f"make it with: segdcn data make-shapes --output {self.root}"
        if not record.is_file():
            if (self.root / "JPEGImages").is_dir() and not any(self.root.glob("JPEGImages/*.jpg")):
                raise InvalidDataError(
                    f"{self.root} is incomplete: it has no {RECORD}, which is written last; {again} --overwrite true"
                )
            raise MissingFileError(f"{self.root} is no Shapes data set: it has no {RECORD}; {again}")
        try:
            classes = json.loads(record.read_text())["class_names"]
        except (ValueError, KeyError, TypeError):
            raise InvalidDataError(f"{record} is not what make-shapes writes; {again} --overwrite true") from None
        if classes != list(CLASS_NAMES):
            raise InvalidDataError(
                f"{record} has the classes {', '.join(map(str, classes))}; expected {', '.join(CLASS_NAMES)}; "
                f"{again} --overwrite true"
            )
        return super().list_samples(split)


def make(
    root: Path,
    train: int = 1200,
    val: int = 240,
    size: int = 96,
    deformation: float = 0.5,
    seed: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write a Shapes data set into `root`.

    A picture follows from (seed, split, its number, size, deformation): the same settings
    give the same files, byte for byte, and more pictures leave the first ones as they are.

    Args:
        root: Folder to write; it is made if need be, and files of the same name are replaced.
        train: Number of training pictures.
        val: Number of validation pictures.
        size: Side of the square pictures in pixels, 32 or more.
        deformation: How strongly outlines are stretched, bent and waved, 0 (only scaled and
            turned) to 1.
        seed: Seed of everything, 0 or more.
        progress: Called after each picture.

    Returns:
        What `dataset.json` holds: settings, version, class names and the share of each
        class in the pixels of each split.

    Raises:
        UserValueError: A setting is out of its range.
    """
    check_settings(train, val, size, deformation, seed)
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / RECORD).unlink(missing_ok=True)

    shares = {}
    for number, (split, count) in enumerate({"train": train, "val": val}.items()):
        names, pixels = [], np.zeros(len(CLASS_NAMES), np.int64)
        for index in range(count):
            picture = collage.draw(np.random.default_rng((seed, number, index)), size, deformation)
            names.append(f"{split}_{index:05d}")
            _write(root, names[-1], picture)
            pixels += np.bincount(picture.labels.ravel(), minlength=len(CLASS_NAMES))
            progress()
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        shares[split] = dict(zip(CLASS_NAMES, (pixels / pixels.sum()).round(4).tolist(), strict=True))

    record = {
        "name": "Shapes",
        "version": VERSION,
        "settings": {"train": train, "val": val, "size": size, "deformation": deformation, "seed": seed},
        "class_names": list(CLASS_NAMES),
        "pixel_shares": shares,
    }
    # Last of all: a folder without it was not finished.
    (root / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record


def _write(root: Path, name: str, picture: collage.Picture) -> None:
    Image.fromarray(picture.image).save(root / "JPEGImages" / f"{name}.png", compress_level=3)
    for folder, ids in (("SegmentationClass", picture.labels), ("SegmentationObject", picture.instances)):
        indexed = Image.fromarray(ids)
        indexed.putpalette([channel for colour in PALETTE for channel in colour])
        indexed.save(root / folder / f"{name}.png")


def check_settings(train: int, val: int, size: int, deformation: float, seed: int) -> None:
    """Refuse settings that `make` cannot use, before anything is written."""
    if train < 1 or val < 1:
        raise UserValueError(f"train is {train} and val is {val}; expected 1 picture or more in each")
    if size < 32:
        raise UserValueError(f"size is {size}; expected 32 pixels or more, or the forms cannot be told apart")
    if not 0 <= deformation <= 1:
        raise UserValueError(f"deformation is {deformation}; expected a number from 0 to 1")
    if seed < 0:
        raise UserValueError(f"seed is {seed}; expected 0 or more")
