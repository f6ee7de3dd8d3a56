"""Count which class was taken for which, over a whole data set."""

import torch
from torch import Tensor

from segdcn.losses import IGNORE
from segdcn.metrics.sums import Sums


class ConfusionMatrix(Sums):
    """Pixels by label (row) and prediction (column), in int64.

    Every measure is read from the counts of the whole set, never averaged over batches or
    images: integers make it exact, and the same on any number of processes.

    A class that occurs neither in the labels nor in the predictions has no IoU: it is NaN
    in `iou()` and left out of `mean_iou()`. A prediction of 255, which is no class, counts as
    missing the label's class, as in the official evaluation of Cityscapes.

    Args:
        num_classes: N; labels and predictions lie in [0, N), 255 in the labels is ignored.
    """

    matrix: Tensor
    missed: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_sum("matrix", num_classes, num_classes)
        self.add_sum("missed", num_classes)

    @torch.no_grad()
    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Add one batch.

        Args:
            predictions: Class indices of any shape, as from `logits.argmax(1)`; 255 is none.
            labels: Class indices of the same shape; 255 is ignored.
        """
        n = self.num_classes
        counted = labels != IGNORE
        labels, predictions = labels[counted].long(), predictions[counted].long()
        # One more column for what is predicted to be no class.
        pairs = labels * (n + 1) + predictions.where(predictions != IGNORE, n)
        counts = torch.bincount(pairs, minlength=n * (n + 1)).view(n, n + 1).to(self.matrix.device)
        self.matrix += counts[:, :n]
        self.missed += counts[:, n]

    def iou(self) -> Tensor:
        """Intersection over union of every class, (N,) float64, NaN where a class does not occur."""
        intersection, union = self._overlap(torch.eye(self.num_classes, device=self.matrix.device))
        return intersection / union  # 0/0 is NaN: in neither labels nor predictions

    def dice(self) -> Tensor:
        """Dice coefficient (F1 of pixels) of every class, (N,) float64, NaN where a class does not occur."""
        intersection, union = self._overlap(torch.eye(self.num_classes, device=self.matrix.device))
        return 2 * intersection / (intersection + union)

    def group_iou(self, groups: Tensor) -> Tensor:
        """IoU of groups of classes, in which a class taken for another of its group is right.

        Args:
            groups: (M, N), not 0 where class n belongs to group m.

        Returns:
            (M,) float64.
        """
        intersection, union = self._overlap(groups)
        return intersection / union

    def _overlap(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Intersection and union of groups (M, N) of classes, in pixels, float64 (exact below 2^53)."""
        groups, matrix = (groups != 0).double(), self.matrix.double()
        labelled = groups @ self.pixels().double()
        predicted = groups @ matrix.sum(0)
        intersection = ((groups @ matrix) * groups).sum(1)
        return intersection, labelled + predicted - intersection

    def pixels(self) -> Tensor:
        """Labelled pixels of every class, (N,) int64."""
        return self.matrix.sum(1) + self.missed

    def mean_iou(self) -> Tensor:
        """Mean of `iou()` over the classes that occur, a float64 scalar; NaN if none does."""
        return self.iou().nanmean()

    def pixel_accuracy(self) -> Tensor:
        """Share of counted pixels predicted right, a float64 scalar; NaN if none was counted."""
        return self.matrix.trace().double() / (self.matrix.sum() + self.missed.sum())
