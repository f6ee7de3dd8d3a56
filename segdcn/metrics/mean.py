"""A mean over a whole data set, from batches of different weight."""

import torch
from torch import Tensor

from segdcn.metrics.sums import Sums


class WeightedMean(Sums):
    """sum(weight * value) / sum(weight) in float64, over all batches and processes.

    With a batch's mean loss as value and its number of counted pixels as weight, this is
    the mean over all pixels of the set, however they were batched.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("sums", 2, dtype=torch.float64)

    @torch.no_grad()
    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add one batch: a scalar mean and the weight it stands for."""
        weight = weight.to(self.sums)
        self.sums += torch.stack([value.to(self.sums) * weight, weight])

    def compute(self) -> Tensor:
        """Return the mean, a float64 scalar; NaN if the weights sum to 0."""
        return self.sums[0] / self.sums[1]
