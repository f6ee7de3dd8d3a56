"""Random deformable convolutions, small and awkward."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Pair = tuple[int, ...]  # in three dimensions with the depth first


@dataclass(frozen=True)
class Geometry:
    """Everything about a convolution but its numbers; without a depth, of two dimensions."""

    batch: int = 2
    channels: int = 12
    height: int = 7
    width: int = 9
    out_channels: int = 8
    kernel: Pair = (3, 2)
    stride: Pair = (2, 1)
    padding: Pair = (1, 0)
    dilation: Pair = (2, 1)
    groups: int = 2
    offset_groups: int = 3
    masked: bool = True
    biased: bool = True
    depth: int | None = None

    @property
    def size(self) -> Pair:
        """(D,) H, W."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def out_size(self) -> Pair:
        """(Do,) Ho, Wo."""
        return tuple(
            (size + 2 * self.padding[i] - self.dilation[i] * (self.kernel[i] - 1) - 1) // self.stride[i] + 1
            for i, size in enumerate(self.size)
        )

    @property
    def settings(self) -> dict:
        """stride, padding and dilation as keyword arguments."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}


AWKWARD = Geometry()
AWKWARD3D = Geometry(
    depth=5, height=6, width=7, kernel=(2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0), dilation=(2, 2, 1)
)


@dataclass
class Tensors:
    """The arguments of one call."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None

    def map(self, function) -> "Tensors":
        """Apply a function to every tensor that is there."""
        return Tensors(**{k: None if v is None else function(v) for k, v in vars(self).items()})

    def present(self) -> list[Tensor]:
        """The tensors that are there."""
        return [value for value in vars(self).values() if value is not None]

    def call(self, function, geometry: Geometry) -> Tensor:
        """Call an operator of torchvision's signature."""
        return function(self.input, self.offset, self.weight, self.bias, mask=self.mask, **geometry.settings)

    def gradients(self, function, geometry: Geometry) -> tuple[Tensor, list[Tensor]]:
        """Return the result and the gradients of a random weighting of it, for every argument."""
        leaves = self.map(lambda t: t.detach().requires_grad_())
        output = leaves.call(function, geometry)
        generator = torch.Generator().manual_seed(7)
        grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
        return output.detach(), list(torch.autograd.grad(output, leaves.present(), grad))


def random_tensors(
    geometry: Geometry, seed: int = 0, dtype: torch.dtype = torch.float64, reach: float = 3.0, whole: bool = False
) -> Tensors:
    """Draw arguments; offsets reach about `reach` pixels.

    Unless `whole`, no read comes within 0.2 of a whole pixel, where the bilinear read has a
    kink: its derivative is one-sided there, and finite differences straddle it.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    g = geometry
    fields = g.offset_groups * math.prod(g.kernel)
    offset = normal(g.batch, len(g.size) * fields, *g.out_size) * reach
    fraction = torch.rand(offset.shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2
    offset = offset.round() if whole else offset.floor() + fraction
    return Tensors(
        input=normal(g.batch, g.channels, *g.size),
        offset=offset,
        weight=normal(g.out_channels, g.channels // g.groups, *g.kernel),
        bias=normal(g.out_channels) if g.biased else None,
        mask=torch.rand(g.batch, fields, *g.out_size, generator=generator, dtype=torch.float64) * 2
        if g.masked
        else None,
    ).map(lambda t: t.to(dtype))


def random_geometry(seed: int) -> Geometry:
    """Draw a geometry; every setting varies, sizes stay small."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    groups, offset_groups = pick(1, 1, 2, 3), pick(1, 1, 2, 4)
    geometry = Geometry(
        batch=pick(1, 2, 3),
        channels=groups * offset_groups * pick(1, 2, 5, 17),
        height=pick(1, 4, 7, 12),
        width=pick(1, 5, 8, 13),
        out_channels=groups * pick(1, 3, 8),
        kernel=(pick(1, 2, 3), pick(1, 3, 5)),
        stride=(pick(1, 2, 3), pick(1, 2)),
        padding=(pick(0, 1, 2), pick(0, 1, 3)),
        dilation=(pick(1, 2), pick(1, 3)),
        groups=groups,
        offset_groups=offset_groups,
        masked=pick(True, False),
        biased=pick(True, False),
    )
    while min(geometry.out_size) < 1:
        geometry = replace(geometry, padding=(geometry.padding[0] + 1, geometry.padding[1] + 1))
    return geometry


def random_geometry3d(seed: int) -> Geometry:
    """Draw a geometry of two dimensions and add a third."""
    flat = random_geometry(seed)
    generator = torch.Generator().manual_seed(seed + 1000)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    geometry = replace(
        flat,
        depth=pick(1, 3, 4, 6),
        kernel=(pick(1, 2, 3), *flat.kernel),
        stride=(pick(1, 2), *flat.stride),
        padding=(pick(0, 1, 2), *flat.padding),
        dilation=(pick(1, 2), *flat.dilation),
    )
    while min(geometry.out_size) < 1:
        geometry = replace(geometry, padding=(geometry.padding[0] + 1, *geometry.padding[1:]))
    return geometry


def relative_error(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected|, infinite when not finite."""
    error = (got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300)
    return float(error) if torch.isfinite(error) else float("inf")
