"""The training set `trainaug` of VOC papers: PASCAL VOC 2012 and SBD together.

SBD (Hariharan et al. 2011, "Semantic contours from inverse detectors") annotates pictures that VOC
has without segmentation. Papers train on all of both that is not in VOC's val.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segdcn.data.files import check_file
from segdcn.data.lists import join_below, read_list
from segdcn.data.voc import SBD_FOLDER, SBD_SPLIT, VOC
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

# Names in the official lists, and in what is made of them.
OFFICIAL = {"VOC train": 1464, "VOC val": 1449, "SBD train": 8498, "SBD val": 2857}
OFFICIAL_TRAINAUG = 10582


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        names: The images of trainaug, sorted.
        labels: Where the labels of each come from: VOC's PNG, or SBD's .mat file.
        counts: Names in each list read.
    """

    names: list[str]
    labels: list[Path]
    counts: dict[str, int]


def plan(voc: Path, sbd: Path) -> Plan:
    """Read the lists: trainaug = (SBD train + SBD val + VOC train) without VOC val.

    Labels are VOC's own where VOC annotates the image, and SBD's otherwise. All files are
    looked for before anything is written.

    Args:
        voc: Folder that holds `JPEGImages`, `SegmentationClass` and `ImageSets/Segmentation`.
        sbd: Folder that holds `cls`, `train.txt` and `val.txt`: `benchmark_RELEASE/dataset`.

    Raises:
        MissingFileError: A folder, a list, an image or a label file is missing.
    """
    _check_tree(sbd)
    data = VOC(str(voc))
    lists = {
        "VOC train": {sample.name for sample in data.listed("train")},
        "VOC val": {sample.name for sample in data.listed("val")},
        "SBD train": _names(sbd / "train.txt"),
        "SBD val": _names(sbd / "val.txt"),
    }
    names = sorted((lists["SBD train"] | lists["SBD val"] | lists["VOC train"]) - lists["VOC val"])
    labels = []
    for name in names:
        image = join_below(voc, f"JPEGImages/{name}.jpg", f"a list in {sbd}")
        check_file(image, f"{image} does not exist, but the lists name it; VOC2012's archive holds it")
        own, theirs = voc / "SegmentationClass" / f"{name}.png", sbd / "cls" / f"{name}.mat"
        labels.append(own if own.is_file() else theirs)
        check_file(labels[-1], f"{image} has no labels: there is neither {own} nor {theirs}")
    return Plan(names, labels, {name: len(members) for name, members in lists.items()})


def outputs(voc: Path) -> dict[str, Path]:
    """Name what `make` writes."""
    return {"labels": voc / SBD_FOLDER, "list": voc / "ImageSets" / "Segmentation" / f"{SBD_SPLIT}.txt"}


def check_room(voc: Path, overwrite: bool) -> None:
    """Refuse to write over files, unless told to.

    Raises:
        UserValueError: Files are there already.
    """
    for path in outputs(voc).values():
        if path.exists() and not overwrite:
            raise UserValueError(f"{path} exists already; pass --overwrite true to write over it")


def make(voc: Path, plan: Plan, progress: Callable[[], None] = lambda: None) -> None:
    """Write `SegmentationClassAug/<name>.png` and, last of all, `ImageSets/Segmentation/trainaug.txt`.

    Files of an earlier call are replaced; see `check_room`.

    Args:
        voc: As for `plan`.
        plan: Of `plan`.
        progress: Called after each label map.

    Raises:
        InvalidDataError: A .mat file is damaged, or does not fit its image.
    """
    folder, listed = outputs(voc).values()
    listed.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    for name, source in zip(plan.names, plan.labels, strict=True):
        target = folder / f"{name}.png"
        if source.suffix == ".png":
            shutil.copyfile(source, target)
        else:
            _save(read_mat(source, voc / "JPEGImages" / f"{name}.jpg"), target)
        progress()
    listed.write_text("\n".join(plan.names) + "\n")


def read_mat(path: Path, image: Path) -> np.ndarray:
    """Read SBD's class labels (H, W) uint8: 0 to 20, nothing is ignored.

    The file holds the struct `GTcls`, whose field `Segmentation` is the label map.

    Raises:
        InvalidDataError: It does not, or the map does not fit the image.
    """
    from scipy.io import loadmat  # a fifth of a second that no other verb needs

    try:
        labels = np.asarray(loadmat(path, variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"])
    except Exception as error:  # scipy's reader raises whatever it trips over
        raise InvalidDataError(
            f"{path} is no label file of SBD, or is damaged ({type(error).__name__}: {error}); replace the file"
        ) from error
    with Image.open(image) as picture:
        width, height = picture.size
    if labels.shape != (height, width):
        raise InvalidDataError(f"{path} has labels of shape {labels.shape}; its image {image} is {height}x{width}")
    if labels.min() < 0 or labels.max() >= len(VOC.class_names):
        raise InvalidDataError(f"{path} holds the labels {labels.min()} to {labels.max()}; expected 0 to 20")
    return labels.astype(np.uint8)


def _names(path: Path) -> set[str]:
    return {name for _, name in read_list(path)}


def _check_tree(sbd: Path) -> None:
    expected = ("cls", "train.txt", "val.txt")
    if all((sbd / name).exists() for name in expected):
        return
    for below in ("dataset", "benchmark_RELEASE/dataset"):
        if (sbd / below / "cls").is_dir():
            raise MissingFileError(f"{sbd} is a folder above SBD's data; give {sbd / below}")
    there = (", ".join(sorted(path.name for path in sbd.iterdir())[:6]) or "nothing") if sbd.is_dir() else "no folder"
    raise MissingFileError(
        f"{sbd} does not hold SBD: expected {', '.join(expected)}; found {there}. "
        "Give the folder benchmark_RELEASE/dataset of the unpacked archive"
    )


def _save(labels: np.ndarray, path: Path) -> None:
    picture = Image.fromarray(labels)
    picture.putpalette(np.array(VOC.palette, np.uint8).tobytes())
    picture.save(path)
