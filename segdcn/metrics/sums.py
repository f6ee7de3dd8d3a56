"""What all measures are made of: sums over a data set."""

from collections.abc import Callable
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Sums(nn.Module):
    """Numbers that add up over batches and processes; every measure is read from them at the end.

    A subclass registers its sums with `add_sum`, adds to them in an `update` and reads them in
    measures of its own. Counts are int64 and so exact, and the same on any number of processes.
    """

    def add_sum(self, name: str, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        """Register a sum of this shape, at zero."""
        # Not persistent: a checkpoint holds what was learnt, not half an evaluation.
        self.register_buffer(name, torch.zeros(shape, dtype=dtype), persistent=False)

    def reset(self) -> None:
        """Set all sums to zero."""
        for total in self.buffers():
            total.zero_()

    def sync(self) -> None:
        """Sum over all processes; call once, after the last batch."""
        if dist.is_available() and dist.is_initialized():
            for total in self.buffers():
                dist.all_reduce(total)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Follow the module's device but not its dtype: from 256 on, bfloat16 cannot count by ones.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, total in before.items():
            setattr(self, name, total.to(getattr(self, name).device))
        return self
