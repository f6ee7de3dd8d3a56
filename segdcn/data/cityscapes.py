"""Cityscapes (Cordts et al. 2016), read as it is unpacked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.files import read_id_map, write_id_map
from segdcn.data.loading import IGNORE_INDEX
from segdcn.errors import InvalidDataError, MissingFileError


@dataclass(frozen=True)
class Label:
    """One of the 34 labels that the annotators drew: its id in the PNGs and, if it is evaluated, its class."""

    id: int
    name: str
    category: str
    colour: tuple[int, int, int]
    evaluated: bool = False


# Ids, names, categories and colours of the official cityscapesscripts; the evaluated ones, in this
# order, are the 19 classes ("train ids" 0 to 18).
LABELS = (
    Label(0, "unlabeled", "void", (0, 0, 0)),
    Label(1, "ego vehicle", "void", (0, 0, 0)),
    Label(2, "rectification border", "void", (0, 0, 0)),
    Label(3, "out of roi", "void", (0, 0, 0)),
    Label(4, "static", "void", (0, 0, 0)),
    Label(5, "dynamic", "void", (111, 74, 0)),
    Label(6, "ground", "void", (81, 0, 81)),
    Label(7, "road", "flat", (128, 64, 128), True),
    Label(8, "sidewalk", "flat", (244, 35, 232), True),
    Label(9, "parking", "flat", (250, 170, 160)),
    Label(10, "rail track", "flat", (230, 150, 140)),
    Label(11, "building", "construction", (70, 70, 70), True),
    Label(12, "wall", "construction", (102, 102, 156), True),
    Label(13, "fence", "construction", (190, 153, 153), True),
    Label(14, "guard rail", "construction", (180, 165, 180)),
    Label(15, "bridge", "construction", (150, 100, 100)),
    Label(16, "tunnel", "construction", (150, 120, 90)),
    Label(17, "pole", "object", (153, 153, 153), True),
    Label(18, "polegroup", "object", (153, 153, 153)),
    Label(19, "traffic light", "object", (250, 170, 30), True),
    Label(20, "traffic sign", "object", (220, 220, 0), True),
    Label(21, "vegetation", "nature", (107, 142, 35), True),
    Label(22, "terrain", "nature", (152, 251, 152), True),
    Label(23, "sky", "sky", (70, 130, 180), True),
    Label(24, "person", "human", (220, 20, 60), True),
    Label(25, "rider", "human", (255, 0, 0), True),
    Label(26, "car", "vehicle", (0, 0, 142), True),
    Label(27, "truck", "vehicle", (0, 0, 70), True),
    Label(28, "bus", "vehicle", (0, 60, 100), True),
    Label(29, "caravan", "vehicle", (0, 0, 90)),
    Label(30, "trailer", "vehicle", (0, 0, 110)),
    Label(31, "train", "vehicle", (0, 80, 100), True),
    Label(32, "motorcycle", "vehicle", (0, 0, 230), True),
    Label(33, "bicycle", "vehicle", (119, 11, 32), True),
)
CLASSES = tuple(label for label in LABELS if label.evaluated)
LICENSE_PLATE = -1  # stored as 255 in 8 bits

# Class of every stored id; what is no label stays -1 and is refused.
CLASS_OF_ID = np.full(256, -1, np.int16)
for _label in LABELS:
    CLASS_OF_ID[_label.id] = IGNORE_INDEX
for _index, _label in enumerate(CLASSES):
    CLASS_OF_ID[_label.id] = _index
CLASS_OF_ID[LICENSE_PLATE] = IGNORE_INDEX
# And back: what evaluation and submissions want to see.
ID_OF_CLASS = np.array([label.id for label in CLASSES], np.uint8)


class Cityscapes(SegmentationData):
    """Cityscapes: street scenes of 2048x1024 pixels, 19 classes; void and rare labels are 255.

    `root` holds the unpacked `leftImg8bit` and `gtFine` (and, with `coarse`, `gtCoarse`). The
    annotators' `labelIds` are mapped to the 19 classes while reading; no files are written.
    Splits are `train`, `val` and `test` (whose public labels are all void); with `coarse`
    also `train_extra`.

    Args:
        root: Folder that holds `leftImg8bit` and `gtFine`.
        coarse: Read the coarse annotation (`gtCoarse`) of the training splits; validation
            and test stay fine.
        settings: As in SegmentationData.
    """

    class_names = tuple(label.name for label in CLASSES)
    palette = tuple(label.colour for label in CLASSES)

    def __init__(self, root: str, coarse: bool = False, **settings: Any) -> None:
        super().__init__(root, **settings)
        self.coarse = coarse

    def list_samples(self, split: str) -> list[Sample]:
        """List the frames of all cities of a split."""
        images = self._folder("leftImg8bit")
        kind = "gtCoarse" if self.coarse and split.startswith("train") else "gtFine"
        labels = self._folder(kind)
        if not (images / split).is_dir():
            there = ", ".join(sorted(path.name for path in images.iterdir() if path.is_dir())) or "none"
            raise MissingFileError(f"{images / split} does not exist: no split {split!r}; splits there: {there}")
        samples = []
        for image in sorted((images / split).glob("*/*_leftImg8bit.png")):
            frame = image.name.removesuffix("_leftImg8bit.png")
            beside = labels / split / image.parent.name / f"{frame}_{kind}"
            instances = beside.with_name(f"{beside.name}_instanceIds.png")
            samples.append(
                Sample(
                    name=frame,
                    image=image,
                    labels=beside.with_name(f"{beside.name}_labelIds.png"),
                    instances=instances if instances.is_file() else None,
                )
            )
        return samples

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Read labelIds and map them to the 19 classes; (H, W) in 0..18 or 255."""
        ids = read_id_map(sample.labels)
        if ids.min() < 0 or ids.max() > 255:
            raise InvalidDataError(
                f"{sample.labels} holds the id {int(ids.max())}; expected labelIds, 0 to 33 "
                "(instanceIds have their own files)"
            )
        classes = CLASS_OF_ID[ids]
        if (classes < 0).any():
            wrong = np.unique(ids[classes < 0])
            raise InvalidDataError(
                f"{sample.labels} holds the id {int(wrong[0])}; expected labelIds, 0 to 33, or 255 for licence plates"
            )
        return classes.astype(np.uint8)

    def read_instances(self, sample: Sample) -> np.ndarray:
        """Read the instance map: id * 1000 + n for countable objects, 0 elsewhere."""
        ids = super().read_instances(sample)
        return np.where(ids >= 1000, ids, 0)

    def label_files(self, folder: Path) -> dict[str, Path]:
        """Find the labelIds below a folder, by frame; predictions may be called `<frame>*.png`."""
        end = "_gtFine_labelIds.png"
        fine = {path.name.removesuffix(end): path for path in sorted(folder.rglob(f"*{end}"))}
        return fine or {path.stem: path for path in sorted(folder.rglob("*.png"))}

    def instance_file(self, labels: Path) -> Path | None:
        """Find `<frame>_gtFine_instanceIds.png` beside the labelIds."""
        path = labels.with_name(labels.name.replace("_labelIds.png", "_instanceIds.png"))
        return path if path != labels and path.is_file() else None

    def write_prediction(self, folder: Path, split: str, name: str, prediction: np.ndarray) -> Path:
        """Write labelIds to `<city>_<sequence>_<frame>_pred_labelIds.png`, as the benchmark's server takes them."""
        path = folder / f"{name}_pred_labelIds.png"
        write_id_map(path, ID_OF_CLASS[prediction])
        return path

    @property
    def categories(self) -> dict[str, list[int]]:
        """The seven categories of the official evaluation."""
        grouped: dict[str, list[int]] = {}
        for index, label in enumerate(CLASSES):
            grouped.setdefault(label.category, []).append(index)
        return grouped

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        if folder.is_dir():
            return folder
        there = ", ".join(sorted(path.name for path in self.root.iterdir())[:6]) or "nothing"
        raise MissingFileError(
            f"{folder} does not exist; {self.root} holds {there}. Set --data.root to the folder in which "
            f"leftImg8bit_trainvaltest.zip and {'gtCoarse.zip' if name == 'gtCoarse' else 'gtFine_trainvaltest.zip'} "
            "were unpacked"
        )
