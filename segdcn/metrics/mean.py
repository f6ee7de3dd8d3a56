"""A mean over a whole data set, from batches of different weight."""

from collections.abc import Callable
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn


class WeightedMean(nn.Module):
    """sum(weight * value) / sum(weight) in float64, over all batches and processes.

    With a batch's mean loss as value and its number of counted pixels as weight, this is
    the mean over all pixels of the set, however they were batched.
    """

    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Follow the module's device but not its dtype: from 256 on, bfloat16 cannot count by ones.
        sums = self.sums
        super()._apply(fn, recurse)
        self.sums = sums.to(self.sums.device)
        return self

    def reset(self) -> None:
        """Forget all batches."""
        self.sums.zero_()

    @torch.no_grad()
    def update(self, value: Tensor, weight: Tensor) -> None:
        """Add one batch: a scalar mean and the weight it stands for."""
        weight = weight.to(self.sums)
        self.sums += torch.stack([value.to(self.sums) * weight, weight])

    def sync(self) -> None:
        """Sum over all processes; call once, after the last batch."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)

    def compute(self) -> Tensor:
        """Return the mean, a float64 scalar; NaN if the weights sum to 0."""
        return self.sums[0] / self.sums[1]
