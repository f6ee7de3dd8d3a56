"""Whether an exported file computes what the trained network computes."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from segdcn.ops.precision import exact_float32
from segdcn.predictor import Run

# Of the largest logit. Trained networks were seen to differ by 1e-6 to 1e-5 of it: float32 sums in another order,
# and reads at positions that differ by as little. A wrong border, tap or normalisation is off by 1e-2 and more.
TOLERANCE = 1e-4
# Offsets that change strongly from pixel to pixel amplify rounding, in the network itself too. A file may be off by
# as many times the network's own error.
ROUNDING_FACTOR = 10


@dataclass(frozen=True)
class Comparison:
    """The logits of one input, from the file and from the network.

    Attributes:
        input: What it was, in words.
        shape: (B, 3, H, W).
        difference: Largest absolute difference of two logits; infinite where their sizes differ.
        largest: Largest absolute logit of the network.
        changed: Share of pixels whose label differs.
        rounding: Largest difference of the network from itself in float64; 0 where nobody had to know.
    """

    input: str
    shape: tuple[int, ...]
    difference: float
    largest: float
    changed: float
    rounding: float = 0.0

    @property
    def allowed(self) -> float:
        """The largest difference that passes."""
        return max(TOLERANCE * self.largest, ROUNDING_FACTOR * self.rounding)

    @property
    def agrees(self) -> bool:
        """Whether it passes; NaN does not."""
        return self.difference <= self.allowed


@torch.no_grad()
@exact_float32()
def compare(network: nn.Module, exported: Run, inputs: Iterable[tuple[str, Tensor]]) -> list[Comparison]:
    """Run both on the same normalised images, on a GPU too without the rounding to TF32, which is no difference.

    Args:
        network: The reference, in evaluation mode on the CPU.
        exported: The file, in its own runtime.
        inputs: What each is, and the image (B, 3, H, W).
    """
    found = []
    for name, image in inputs:
        image = image.contiguous(memory_format=torch.channels_last)
        expected, logits = network(image), exported(image).cpu().float()
        largest = expected.abs().max().item()
        difference, changed = float("inf"), 1.0
        if logits.shape == expected.shape:
            difference = (logits - expected).abs().max().item()
            changed = (logits.argmax(1) != expected.argmax(1)).float().mean().item()
        one = Comparison(name, tuple(image.shape), difference, largest, changed)
        if not one.agrees:
            exact = copy.deepcopy(network).double()(image.double())
            one = replace(one, rounding=(expected - exact).abs().max().item())
        found.append(one)
    return found


def padded(image: Tensor, size_divisor: int) -> Tensor:
    """Pad an image with zeros, at the bottom and on the right, to a size that networks take."""
    height, width = image.shape[2:]
    return pad(image, (0, -width % size_divisor, 0, -height % size_divisor))


def other_sizes(size_divisor: int) -> list[tuple[str, Tensor]]:
    """Make random images of two sizes, and batches, other than those that are exported with."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 3, 5 * size_divisor, 8 * size_divisor), (1, 3, 9 * size_divisor, 4 * size_divisor)]
    return [("random", torch.randn(shape, generator=generator)) for shape in shapes]
