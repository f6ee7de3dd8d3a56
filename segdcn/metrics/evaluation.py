"""All measures of an evaluation together, from the first image to numbers for a file."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segdcn.metrics.boundary import BoundaryIoU
from segdcn.metrics.calibration import Calibration
from segdcn.metrics.confusion import ConfusionMatrix
from segdcn.metrics.objects import ObjectSizes
from segdcn.metrics.sums import Sums
from segdcn.object_sizes import LIMITS, NAMES


class Evaluation(Sums):
    """Everything that is counted while a set is evaluated; `reset` and `sync` reach all measures.

    Args:
        num_classes: N.
        in_detail: Count for boundary IoU, IoU by the size of objects and calibration too; for a
            street scene of 2048x1024 pixels that takes longer than reading it.
    """

    images: Tensor

    def __init__(self, num_classes: int, in_detail: bool = True) -> None:
        super().__init__()
        self.in_detail = in_detail
        self.add_sum("images")
        self.confusion = ConfusionMatrix(num_classes)
        self.boundary = BoundaryIoU(num_classes)
        self.objects = ObjectSizes(num_classes)
        self.calibration = Calibration()

    def update(
        self,
        prediction: Tensor,
        labels: Tensor,
        logits: Tensor | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        instances: Tensor | None = None,
    ) -> None:
        """Add a batch.

        Args:
            prediction: Class indices (B, H, W); 255 is none.
            labels: Class indices (B, H, W); 255 is ignored.
            logits: (B, N, H, W), for the calibration; None where there are none.
            sizes: Height and width of each image without padding at the bottom and on the right;
                None if there is none.
            instances: Instance maps (B, H, W), 0 being no object; None if the set has none.
        """
        self.images += len(labels)
        self.confusion.update(prediction, labels)
        if not self.in_detail:
            return
        if logits is not None:
            self.calibration.update(logits, labels)
        for i, (height, width) in enumerate(sizes or [labels.shape[1:]] * len(labels)):
            image = (i, slice(height), slice(width))
            self.boundary.update(prediction[image], labels[image])
            self.objects.update(prediction[image], labels[image], None if instances is None else instances[image])

    def scalars(self) -> dict[str, Tensor]:
        """Give the numbers that sum up the set, by the name they are logged under; NaN where undefined."""
        found = {"mIoU": self.confusion.mean_iou(), "pixel_accuracy": self.confusion.pixel_accuracy()}
        if self.in_detail:
            found["boundary_mIoU"] = self.boundary.iou().nanmean()
            by_size = self.objects.iou().nanmean(0)
            found |= {f"mIoU_{size}_objects": value for size, value in zip(NAMES, by_size, strict=True)}
            found["calibration_error"] = self.calibration.error()
        return found

    def results(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Collect everything for a JSON file, with None for what is not defined."""

        def by_class(values: Tensor) -> dict[str, Any]:
            return dict(zip(class_names, numbers(values), strict=True))

        confusion = self.confusion
        found: dict[str, Any] = {
            "images": int(self.images),
            "mIoU": numbers(confusion.mean_iou()),
            "mDice": numbers(confusion.dice().nanmean()),
            "pixel_accuracy": numbers(confusion.pixel_accuracy()),
            "IoU": by_class(confusion.iou()),
            "Dice": by_class(confusion.dice()),
            "pixels": by_class(confusion.pixels()),
            "confusion": confusion.matrix.tolist(),
        }
        if not self.in_detail:
            return found
        boundary = self.boundary.iou()
        found["boundary"] = {
            "distance": self.boundary.distance,
            "mIoU": numbers(boundary.nanmean()),
            "IoU": by_class(boundary),
        }
        objects, iou, recall = self.objects, self.objects.iou(), self.objects.recall()
        with_map, without = objects.images.tolist()
        found["objects"] = {
            "are": "mixed" if with_map and without else "instances" if with_map else "connected regions",
            "size_limits": list(LIMITS),
            "by_size": {
                size: {
                    "count": int(objects.objects[:, i].sum()),
                    "mIoU": numbers(iou[:, i].nanmean()),
                    "mean_recall": numbers(recall[:, i].nanmean()),
                    "IoU": by_class(iou[:, i]),
                    "recall": by_class(recall[:, i]),
                }
                for i, size in enumerate(NAMES)
            },
            "mean_instance_IoU": numbers(objects.instance_iou().nanmean()),
            "instance_IoU": by_class(objects.instance_iou()),
        }
        if self.calibration.pixels.any():
            found["calibration"] = {
                "error": numbers(self.calibration.error()),
                "pixels": self.calibration.pixels.tolist(),
                "right": self.calibration.right.tolist(),
                "confidence": numbers(self.calibration.confidence / self.calibration.pixels),
            }
        return found


def numbers(values: Tensor) -> Any:
    """Turn a tensor into a number or a list of numbers, with None for NaN."""
    if values.dim():
        return [numbers(value) for value in values]
    return None if torch.isnan(values) else values.item()
