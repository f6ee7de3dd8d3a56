"""Look through a data set for everything that is wrong with it, file by file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from os.path import realpath
from pathlib import Path

import numpy as np

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.files import check_file, check_size, read_indexed, read_picture
from segdcn.data.loading import IGNORE_INDEX
from segdcn.data.passes import each
from segdcn.errors import InvalidDataError, MissingFileError, UserError

# What can be wrong, with the heading of its list in a report.
KINDS = {
    "split": "splits that cannot be listed",
    "missing": "missing files",
    "unreadable": "files that cannot be read",
    "labels": "label maps that hold something else than classes",
    "renumbered": "label maps whose palette contradicts their ids",
    "size": "label maps of another size than their image",
    "itself": "images that are their own label map",
    "ignored": "label maps without a pixel that counts",
    "repeated": "images listed more than once in a split",
    "leak": "images in more than one split",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong, in one line.

    Attributes:
        kind: A key of `KINDS`.
        split: The split in which it was found.
        file: What it is about: a file, or the root where a split cannot be listed.
        message: What is wrong; names the file.
    """

    kind: str
    split: str
    file: str
    message: str


@dataclass(frozen=True)
class Reading:
    """What reading one sample gave.

    Attributes:
        problems: What is wrong with its files.
        pixels: Pixels of each class and, last, ignored ones (N + 1,); None without valid labels.
        digest: Of the picture's size and pixels; None if it cannot be read.
    """

    problems: list[Problem]
    pixels: np.ndarray | None
    digest: bytes | None


@dataclass
class Report:
    """What is wrong with a data set, and what it holds.

    Attributes:
        problems: First splits, then files in their order, then what concerns several files.
        num_samples: By split.
        pixels: By split, pixels of each class and, last, ignored ones (N + 1,), in valid label maps.
    """

    problems: list[Problem] = field(default_factory=list)
    num_samples: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, np.ndarray] = field(default_factory=dict)


def default_splits(data: SegmentationData) -> list[str]:
    """Name the splits for training, validation and test, each once."""
    return list(dict.fromkeys([data.train_split, data.val_split, data.test_split]))


def check(
    data: SegmentationData,
    splits: list[str],
    start: Callable[[int], None] = lambda total: None,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Read every file of the splits, in `data.num_workers` processes, and collect what is wrong.

    1. List each split. One that cannot be listed is a problem, and its files are not looked at.
    2. Read each image and its labels: are they there, whole, of one size, with classes alone?
    3. Compare samples: is one listed twice, or are the same pixels in two splits?

    Args:
        data: The data set.
        splits: Which to read.
        start: Called with the number of samples before the first is read.
        advance: Called after each.
    """
    report = Report()
    entries: list[tuple[str, Sample]] = []
    for split in splits:
        try:
            samples = data.listed(split)
        except UserError as error:
            report.problems.append(Problem("split", split, str(data.root), str(error)))
            continue
        report.num_samples[split] = len(samples)
        report.pixels[split] = np.zeros(data.num_classes + 1, np.int64)
        entries += [(split, sample) for sample in samples]

    start(len(entries))
    readings = []
    for reading in each(partial(read, data), entries, data.num_workers):
        readings.append(reading)
        advance()
    for (split, _), reading in zip(entries, readings, strict=True):
        report.problems += reading.problems
        if reading.pixels is not None:
            report.pixels[split] += reading.pixels
    report.problems += _repeated(entries) + _leaks(entries, [reading.digest for reading in readings])
    # A file that is listed twice, or a root that fits no split, is wrong once.
    report.problems = list({problem.message: problem for problem in report.problems}.values())
    return report


# One sample


def read(data: SegmentationData, entry: tuple[str, Sample]) -> Reading:
    """Read the files of one sample of a split, and say all that is wrong with them."""
    split, sample = entry
    problems: list[Problem] = []

    def found(kind: str, path: Path, error: UserError | str) -> None:
        problems.append(Problem(kind, split, str(path), str(error)))

    there = set()
    for path, missing in sample.required(split):
        try:
            check_file(path, missing)
            there.add(path)
        except UserError as error:
            found("missing" if isinstance(error, MissingFileError) else "unreadable", path, error)
    image = labels = None
    if sample.image in there:
        try:
            image = read_picture(sample.image)
        except UserError as error:
            found("unreadable", sample.image, error)
    if {sample.image, sample.labels} <= there and sample.image.samefile(sample.labels):
        found("itself", sample.image, f"{sample.image} is its own label map; expected labels in a file of their own")
    elif sample.labels in there:
        try:
            labels = _valid_labels(data, sample)
        except UserError as error:
            found("labels" if _decodes(sample.labels) else "unreadable", sample.labels, error)

    if labels is not None:
        if image is not None:
            try:
                check_size(sample.labels, labels, sample.image, image)
            except InvalidDataError as error:
                found("size", sample.labels, error)
        if (labels == IGNORE_INDEX).all():
            found("ignored", sample.labels, f"{sample.labels} holds no pixel of a class; all are ignored")
        if (renumbered := _renumbered(data, labels, sample.labels)) is not None:
            found("renumbered", sample.labels, renumbered)
    return Reading(problems, None if labels is None else _counts(data, labels), _digest(image))


def _valid_labels(data: SegmentationData, sample: Sample) -> np.ndarray:
    labels = data.read_labels(sample)
    data.check_labels(labels, sample.labels)
    return labels


def _decodes(path: Path) -> bool:
    try:
        read_indexed(path)
        return True
    except UserError:
        return False


def _renumbered(data: SegmentationData, labels: np.ndarray, path: Path) -> str | None:
    """Say which id has another class's colour in the file's own palette.

    Image editors sort palettes as they like, and ids with them. A palette that has nothing to do
    with the classes' colours says nothing: all colours in use have to be colours of classes.
    """
    indexed = read_indexed(path)
    if indexed is None:
        return None
    ids, palette = indexed
    # Every pair of a class and the id it was read from, once.
    pairs = np.flatnonzero(np.bincount((labels.astype(np.int64) << 8 | ids).ravel()))
    painted = [(int(pair >> 8), tuple(palette[pair & 255].tolist())) for pair in pairs if pair >> 8 != IGNORE_INDEX]
    of_colour = dict(zip(map(tuple, data.palette), data.class_names, strict=True))
    if not all(colour in of_colour for _, colour in painted):
        return None
    for index, colour in painted:
        if colour != tuple(data.palette[index]):
            return (
                f"{path} paints the class {data.class_names[index]} in the colour of {of_colour[colour]}; "
                "a program that sorts palettes may have changed its ids"
            )
    return None


def _counts(data: SegmentationData, labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)
    return np.append(counts[: data.num_classes], counts[IGNORE_INDEX])


def _digest(image: np.ndarray | None) -> bytes | None:
    if image is None:
        return None
    digest = blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(image.data)
    return digest.digest()


# Several samples


def _repeated(entries: list[tuple[str, Sample]]) -> list[Problem]:
    """Find the images that a split lists more than once."""
    times: dict[tuple[str, str], int] = {}
    for split, sample in entries:
        key = (split, realpath(sample.image))
        times[key] = times.get(key, 0) + 1
    return [
        Problem("repeated", split, path, f"{path} is listed {count} times in the split {split!r}")
        for (split, path), count in times.items()
        if count > 1
    ]


def _leaks(entries: list[tuple[str, Sample]], digests: list[bytes | None]) -> list[Problem]:
    """Find the images whose file, or whose pixels under another name, an earlier split has too."""
    first: dict[bytes | str, tuple[str, Path]] = {}
    problems = []
    for (split, sample), digest in zip(entries, digests, strict=True):
        earlier, image = first.setdefault(digest or realpath(sample.image), (split, sample.image))
        if earlier == split:
            continue
        if realpath(image) == realpath(sample.image):
            message = f"{sample.image} is in the splits {earlier!r} and {split!r}"
        else:
            message = f"{sample.image} of the split {split!r} has the same pixels as {image} of the split {earlier!r}"
        problems.append(Problem("leak", split, str(sample.image), message))
    return problems
