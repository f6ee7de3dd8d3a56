"""Count which class was taken for which, over a whole data set."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segdcn.losses import IGNORE


class ConfusionMatrix(nn.Module):
    """Pixels by label (row) and prediction (column), in int64.

    Every measure is read from the counts of the whole set, never averaged over batches or
    images: integers make it exact, and the same on any number of processes.

    A class that occurs neither in the labels nor in the predictions has no IoU: it is NaN
    in `iou()` and left out of `mean_iou()`.

    Args:
        num_classes: N; labels and predictions lie in [0, N), 255 in the labels is ignored.
    """

    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        # Not persistent: a checkpoint holds what was learnt, not half an evaluation.
        self.register_buffer("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), persistent=False)

    def reset(self) -> None:
        """Set all counts to zero."""
        self.matrix.zero_()

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            predictions: Class indices of any shape, as from `logits.argmax(1)`.
            labels: Class indices of the same shape; 255 is ignored.
        """
        counted = labels != IGNORE
        pairs = labels[counted].long() * self.num_classes + predictions[counted].long()
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.matrix += counts.view(self.num_classes, self.num_classes).to(self.matrix.device)

    def sync(self) -> None:
        """Sum the counts of all processes; call once, after the last batch."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.matrix)

    def iou(self) -> Tensor:
        """Intersection over union of every class, (N,) float64, NaN where a class does not occur."""
        intersection = self.matrix.diagonal()
        union = self.matrix.sum(0) + self.matrix.sum(1) - intersection
        return intersection.double() / union  # 0/0 is NaN: in neither labels nor predictions

    def mean_iou(self) -> Tensor:
        """Mean of `iou()` over the classes that occur, a float64 scalar; NaN if none does."""
        return self.iou().nanmean()

    def pixel_accuracy(self) -> Tensor:
        """Share of counted pixels predicted right, a float64 scalar; NaN if none was counted."""
        return self.matrix.trace().double() / self.matrix.sum()
