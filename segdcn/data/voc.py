"""PASCAL VOC 2012 (Everingham et al. 2015), and any data set stored in its layout."""

from pathlib import Path

import numpy as np

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.files import write_id_map
from segdcn.data.lists import join_below, read_list
from segdcn.errors import MissingFileError

# The training set of 10,582 pictures that papers use, of VOC and SBD (see segdcn.data.voc_sbd).
SBD_SPLIT = "trainaug"
SBD_FOLDER = "SegmentationClassAug"


class VOC(SegmentationData):
    """PASCAL VOC 2012: 20 classes and background; 255 is the border around objects.

    `root` is the folder that holds `JPEGImages`, `SegmentationClass` and
    `ImageSets/Segmentation`: `.../VOCdevkit/VOC2012` in the official tree. A split is the
    name of a list in `ImageSets/Segmentation`, without `.txt`; the labels of `trainaug`, which
    `segdcn data prepare voc-sbd` makes, lie in `SegmentationClassAug`.

    Args and batches are those of `SegmentationData`.
    """

    class_names: tuple[str, ...] = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
    palette: tuple[tuple[int, int, int], ...] = (
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
        (128, 0, 128),
        (0, 128, 128),
        (128, 128, 128),
        (64, 0, 0),
        (192, 0, 0),
        (64, 128, 0),
        (192, 128, 0),
        (64, 0, 128),
        (192, 0, 128),
        (64, 128, 128),
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    )
    image_suffix: str = ".jpg"

    def list_samples(self, split: str) -> list[Sample]:
        """List the names in `ImageSets/Segmentation/<split>.txt`."""
        self._check_root()
        lists = self.root / "ImageSets" / "Segmentation"
        path = lists / f"{split}.txt"
        if not path.is_file():
            there = ", ".join(sorted(file.stem for file in lists.glob("*.txt"))) or "none"
            raise MissingFileError(f"{path} does not exist: no split {split!r}; splits in this folder: {there}")
        labels = self._label_folder(split)
        instances = self.root / "SegmentationObject"
        has_instances = instances.is_dir() and split != SBD_SPLIT
        return [
            Sample(
                name=name,
                image=join_below(self.root, f"JPEGImages/{name}{self.image_suffix}", where),
                labels=join_below(self.root, f"{labels}/{name}.png", where),
                instances=instances / f"{name}.png" if has_instances else None,
            )
            for where, name in read_list(path)
        ]

    def instance_file(self, labels: Path) -> Path | None:
        """Find the file of the same name in `SegmentationObject`."""
        path = labels.parent.with_name("SegmentationObject") / labels.name
        return path if path.is_file() else None

    def write_prediction(self, folder: Path, split: str, name: str, prediction: np.ndarray) -> Path:
        """Write a palette PNG into the tree that the VOC server takes, packed as it is (`tar czf`).

        `comp6` is the competition in which other data than VOC's may have been trained on.
        """
        path = folder / "results" / "VOC2012" / "Segmentation" / f"comp6_{split}_cls" / f"{name}.png"
        write_id_map(path, prediction, self.palette)
        return path

    def _label_folder(self, split: str) -> str:
        if split != SBD_SPLIT:
            return "SegmentationClass"
        if not (self.root / SBD_FOLDER).is_dir():
            raise MissingFileError(
                f"{self.root / SBD_FOLDER} does not exist, where the labels of the split {split!r} lie; "
                "segdcn data prepare voc-sbd makes them"
            )
        return SBD_FOLDER

    def _check_root(self) -> None:
        expected = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
        if all((self.root / folder).is_dir() for folder in expected):
            return
        for below in ("VOC2012", "VOCdevkit/VOC2012"):
            if (self.root / below / "JPEGImages").is_dir():
                raise MissingFileError(
                    f"{self.root} is a folder above the data set; set --data.root {self.root / below}"
                )
        there = ", ".join(sorted(path.name for path in self.root.iterdir())[:6]) or "nothing"
        raise MissingFileError(
            f"{self.root} is no tree in VOC's layout: expected {', '.join(expected)}; found {there}. "
            "Set --data.root to the folder that holds them (VOCdevkit/VOC2012)"
        )
