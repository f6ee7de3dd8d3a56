"""Whether an exported file computes what the trained network computes."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from segdcn.predictor import Run

# Of the largest logit: float32 sums in another order, through a hundred layers, and reads at positions that
# differ by as little, were seen to differ by up to 1e-5 of it. A wrong border, tap or normalisation is off by
# 1e-2 and more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """The logits of one input, from the file and from the network.

    Attributes:
        input: What it was, in words.
        shape: (B, 3, H, W).
        difference: Largest absolute difference of two logits; infinite where one is not finite.
        largest: Largest absolute logit of the network.
        changed: Share of pixels whose label differs.
    """

    input: str
    shape: tuple[int, ...]
    difference: float
    largest: float
    changed: float

    @property
    def allowed(self) -> float:
        """The largest difference that passes."""
        return TOLERANCE * self.largest

    @property
    def agrees(self) -> bool:
        """Whether it passes; NaN does not."""
        return self.difference <= self.allowed


def compare(network: Run, exported: Run, inputs: Iterable[tuple[str, Tensor]]) -> list[Comparison]:
    """Run both on the same normalised images.

    Args:
        network: The reference.
        exported: The file, in its own runtime.
        inputs: What each is, and the image (B, 3, H, W).
    """
    found = []
    for name, image in inputs:
        expected, logits = network(image).cpu().float(), exported(image).cpu().float()
        if logits.shape != expected.shape:
            difference, changed = float("inf"), 1.0
        else:
            difference = (logits - expected).abs().max().item()
            changed = (logits.argmax(1) != expected.argmax(1)).float().mean().item()
        found.append(Comparison(name, tuple(image.shape), difference, expected.abs().max().item(), changed))
    return found


def other_sizes(size_divisor: int) -> list[tuple[str, Tensor]]:
    """Make random images of two sizes, and batches, other than those that are exported with."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 3, 5 * size_divisor, 8 * size_divisor), (1, 3, 9 * size_divisor, 4 * size_divisor)]
    return [("random", torch.randn(shape, generator=generator)) for shape in shapes]
