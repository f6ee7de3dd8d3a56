"""Random RoI poolings, small and awkward."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segdcn.ops import deform_psroi_pool, deform_roi_pool, roi_reference


@dataclass(frozen=True)
class Case:
    """A call of one of the two operators: its tensors and settings."""

    name: str
    input: Tensor
    rois: Tensor
    offset: Tensor | None
    settings: dict[str, Any]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Case":
        """Apply a function to every tensor."""
        moved = None if self.offset is None else function(self.offset)
        return replace(self, input=function(self.input), rois=function(self.rois), offset=moved)

    def call(self, exact: bool = False) -> Tensor:
        """Call the operator, or its definition."""
        fast = {"deform_roi_pool": deform_roi_pool, "deform_psroi_pool": deform_psroi_pool}
        function = getattr(roi_reference, self.name) if exact else fast[self.name]
        return function(self.input, self.rois, self.offset, **self.settings)

    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [self.input] if self.offset is None else [self.input, self.offset]

    def gradients(self, exact: bool = False) -> list[Tensor]:
        """Return the result, and the gradients of a random weighting of it for input and offset."""
        case = self.map(lambda t: t.detach().clone(memory_format=torch.preserve_format))
        for leaf in case.leaves():
            leaf.requires_grad_()
        output = case.call(exact)
        grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        return [output.detach(), *torch.autograd.grad(output, case.leaves(), grad.to(output))]


def draw_rois(generator: torch.Generator, count: int, batch: int, height: float, width: float) -> Tensor:
    """Draw regions of every size, some of them partly or wholly outside of (height, width), some of no size."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator, dtype=torch.float64) * (high - low) + low

    x, y = uniform(-0.2 * width, width), uniform(-0.2 * height, height)
    boxes = [x, y, x + uniform(0, 0.8) * width, y + uniform(0, 0.8) * height]
    images = torch.randint(batch, (count,), generator=generator).double()
    rois = torch.stack([images, *boxes], dim=1)
    rois[1::7, 3] = rois[1::7, 1]  # no width
    rois[2::9, 1:] += 5 * max(height, width)  # outside
    return rois


def draw(name: str, seed: int, **fixed: Any) -> Case:
    """Draw a case; every setting varies unless given: batch, channels, count, offset, samples, layout."""
    generator = torch.Generator().manual_seed(seed)

    def pick(key: str, *choices):
        choice = choices[int(torch.randint(len(choices), (), generator=generator))]
        return fixed.get(key, choice)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, height, width = pick("batch", 1, 2, 3), pick("height", 1, 7, 12), pick("width", 1, 6, 15)
    scale = pick("scale", 1.0, 0.5, 0.0625)
    count = pick("count", 1, 4, 23)
    rois = draw_rois(generator, count, batch, height / scale, width / scale)
    size = (pick("ph", 1, 2, 3, 7), pick("pw", 1, 2, 4))
    moves = pick("moves", True, True, False)
    if name == "deform_roi_pool":
        channels = pick("channels", 1, 3, 16, 70, 150)
        settings = {"output_size": size, "spatial_scale": scale, "sampling_ratio": pick("samples", 0, 1, 2, 3)}
        settings["gamma"] = pick("gamma", 0.1, 1.0)
        offset = normal(count, 2, *size) if moves else None
    else:
        classes, group = pick("classes", 1, 1, 3), pick("group", 1, 2, 3)
        depth = classes * pick("depth", 1, 2, 19)
        channels = depth * group**2
        parts = pick("parts", None, (2, 3), (1, 1))
        settings = {"output_dim": depth, "group_size": group, "output_size": pick("size", None, size)}
        settings |= {"part_size": parts, "samples_per_part": pick("samples", 1, 2, 4), "spatial_scale": scale}
        settings["trans_std"] = pick("gamma", 0.1, 1.0)
        offset = normal(count, 2 * classes, *(parts or settings["output_size"] or (group, group))) if moves else None
    input = normal(batch, channels, height, width)
    if pick("last", False, True):
        input = input.contiguous(memory_format=torch.channels_last)
    return Case(name, input, rois, offset, settings)


NAMES = ["deform_roi_pool", "deform_psroi_pool"]
