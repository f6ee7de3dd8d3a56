"""A few validation images that are always the same, what a network makes of them, and drawings of that."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning import Trainer
from torch import Tensor

from segdcn import offsets
from segdcn.callbacks.reading import read_offsets
from segdcn.task import SegmentationTask
from segdcn.wandb_pictures import Overlay


def chosen_indices(length: int, count: int, seed: int) -> list[int]:
    """Draw `count` of `length` samples, or all if there are fewer; they depend on nothing else than the arguments."""
    return sorted(random.Random(seed).sample(range(length), min(length, count)))


@dataclass(frozen=True)
class Shown:
    """A validation image and what the network makes of it, on the CPU.

    Attributes:
        name: The sample's name.
        image: Normalised (3, H, W).
        labels: Ground truth (H, W), 255 where there is none.
        prediction: Class indices (H, W).
        seen: Rows and columns that the network sees at once: all, or the window in the middle.
        fields: What the deformable layers predicted there; empty where they were not asked.
    """

    name: str
    image: Tensor
    labels: Tensor
    prediction: Tensor
    seen: tuple[slice, slice]
    fields: list[offsets.SamplingField]

    @property
    def stem(self) -> str:
        """How its files are called."""
        return Path(self.name).name

    def overlay(self, task: SegmentationTask, max_side: int) -> Overlay:
        """Make what W&B shows, reduced where it is larger than `max_side`."""
        labels, prediction = (ids.numpy().astype(np.uint8) for ids in (self.labels, self.prediction))
        return Overlay(self.name, _pixels(self.image, task), labels, prediction).reduced(max_side)


def look(
    trainer: Trainer,
    task: SegmentationTask,
    name: str,
    image: Tensor,
    labels: Tensor,
    prediction: Tensor,
    with_offsets: bool,
) -> Shown:
    """Collect what there is to show of one image.

    Args:
        trainer: In whose precision the deformable layers are asked.
        task: The network.
        name: The sample's.
        image: Normalised, on the network's device, as large as the network takes it: (3, H', W').
        labels: (H, W), no larger.
        prediction: (H', W') or (H, W).
        with_offsets: Ask the deformable layers, with a pass of the encoder.
    """
    height, width = labels.shape
    seen = _seen_at_once(task.inference.window, (image.shape[1], image.shape[2]))
    asked = with_offsets and task.hparams["deform_layers"]
    return Shown(
        name=name,
        image=image[:, :height, :width].cpu(),
        labels=labels.cpu(),
        prediction=prediction[:height, :width].cpu(),
        seen=seen,
        fields=read_offsets(trainer, task, image[None, :, *seen]) if asked else [],
    )


def _seen_at_once(window: tuple[int, int] | None, size: tuple[int, int]) -> tuple[slice, slice]:
    """Give the rows and columns of the window in the middle; all without a window, or in a larger one."""
    sides = [min(pair) for pair in zip(window or size, size, strict=True)]
    starts = [(length - side) // 2 for length, side in zip(size, sides, strict=True)]
    rows, columns = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return rows, columns


# matplotlib is imported inside: it takes a second, and is not needed for training.


def draw_prediction(shown: Shown, task: SegmentationTask) -> Image.Image:
    """Draw image, labels, prediction and errors."""
    from segdcn.pictures import segmentation

    return segmentation.panel(
        image=shown.image,
        labels=shown.labels,
        prediction=shown.prediction,
        palette=task.hparams["palette"],
        class_names=task.class_names,
        mean=task.hparams["mean"],
        std=task.hparams["std"],
    )


def draw_sampling(shown: Shown, task: SegmentationTask) -> Image.Image:
    """Draw the points that the deformable layers read at places inside the largest objects."""
    from segdcn.pictures import offsets as offset_pictures

    places = offset_pictures.choose_places(shown.labels[shown.seen].numpy())
    named = [(y, x, task.class_names[label]) for y, x, label in places]
    return offset_pictures.follow(_pixels(shown.image[:, *shown.seen], task), shown.fields, named)


def draw_fields(shown: Shown, task: SegmentationTask) -> dict[str, Image.Image]:
    """Draw displacement, direction, length and modulation of the last layers, by their names."""
    from segdcn.pictures.offset_fields import field_picture
    from segdcn.pictures.offsets import CHAIN

    pixels = _pixels(shown.image[:, *shown.seen], task)
    return {field.name: field_picture(pixels, field) for field in shown.fields[-CHAIN:]}


def draw_confusion(task: SegmentationTask) -> Image.Image:
    """Draw the confusion matrix of the last validation."""
    from segdcn.pictures.confusion import confusion_picture

    confusion = task.evaluation.confusion
    title = f"validation, mIoU {confusion.mean_iou().item():.4f}"
    return confusion_picture(confusion.matrix.cpu().numpy(), task.class_names, title)


def _pixels(image: Tensor, task: SegmentationTask) -> Any:
    from segdcn.pictures.segmentation import to_pixels

    return to_pixels(image, task.hparams["mean"], task.hparams["std"])
