"""A problem that only offsets can solve: in half of each picture, to read four times as far.

A picture has two channels: a random texture, and a cue, -1 on one side of a random line and +1 on the other.
Wanted are six fixed 3x3 filters of the texture, with dilation 1 where the cue is -1 and dilation 4 where it is +1.
The layer has the filters and dilation 1 from the start; all it learns is where its taps read, from the squared error
of what they read. Nothing tells it what the cue means, or that there are places to read at.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from segdcn.layers import DeformableConv2d

SIZE = 48  # of a picture, in pixels
FAR = 4  # dilation where the cue is +1
FILTERS = torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(7))
SMOOTH, FINE = 8.0, 0.5  # lengths over which a texture changes, in pixels

# The way of each tap from dilation 1 to dilation 4, (dy, dx).
TRUE_OFFSETS = (FAR - 1) * torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))


class Pictures(NamedTuple):
    """What the layer sees, and what it shall give.

    Attributes:
        input: Texture and cue (B, 2, H, W).
        target: The filtered texture (B, 6, H, W).
    """

    input: Tensor
    target: Tensor


def draw(count: int, generator: torch.Generator, length: float = SMOOTH) -> Pictures:
    """Draw pictures whose texture changes over `length` pixels, and a little over 3."""
    texture = _texture(count, generator, length) + 0.3 * _texture(count, generator, min(length, 3.0))
    angle = 2 * torch.pi * torch.rand(count, 1, 1, generator=generator)
    distance = SIZE / 2 * (torch.rand(count, 1, 1, generator=generator) - 0.5)
    y, x = torch.meshgrid(torch.arange(SIZE) - SIZE / 2, torch.arange(SIZE) - SIZE / 2, indexing="ij")
    cue = torch.where(x * angle.cos() + y * angle.sin() > distance, 1.0, -1.0)[:, None]
    near, far = conv2d(texture, FILTERS, padding=1), conv2d(texture, FILTERS, padding=FAR, dilation=FAR)
    return Pictures(torch.cat([texture, cue], 1), torch.where(cue > 0, far, near))


def _texture(count: int, generator: torch.Generator, length: float) -> Tensor:
    """Draw noise of unit variance, blurred by a Gaussian of `length / pi` pixels (B, 1, H, W)."""
    spectrum = torch.fft.rfft2(torch.randn(count, 1, SIZE, SIZE, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE))
    texture = torch.fft.irfft2(spectrum * torch.exp(-2 * (length * frequency) ** 2), s=(SIZE, SIZE))
    return texture / texture.std((2, 3), keepdim=True)


def new_layer() -> DeformableConv2d:
    """Make the layer: the right filters for the texture, none for the cue, offsets zero."""
    layer = DeformableConv2d(2, len(FILTERS), 3, padding=1, bias=False, modulated=False)
    layer.weight = nn.Parameter(torch.cat([FILTERS, torch.zeros_like(FILTERS)], 1), requires_grad=False)
    return layer


def train(
    steps: int, seed: int = 0, length: float = SMOOTH, watch: Callable[[int, nn.Module], None] | None = None
) -> tuple[DeformableConv2d, list[float]]:
    """Train the layer's offsets; `watch` is called before every step, and after the last.

    Returns:
        The layer, and the loss of every step.
    """
    generator = torch.Generator().manual_seed(seed)
    layer, losses = new_layer(), []
    optimizer = torch.optim.Adam(layer.offset_conv.parameters(), lr=0.01)
    for step in range(steps):
        if watch is not None:
            watch(step, layer)
        loss = error(layer, draw(4, generator, length))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if watch is not None:
        watch(steps, layer)
    return layer, losses


def error(layer: nn.Module, pictures: Pictures) -> Tensor:
    """Compute the mean squared error, without a border in which dilation 4 reads outside."""
    return (layer(pictures.input) - pictures.target)[..., FAR:-FAR, FAR:-FAR].square().mean()


@torch.no_grad()
def mean_offsets(layer: DeformableConv2d, pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Average the offsets (9, 2) of every tap, where the cue is -1 and where it is +1."""
    offset, _ = layer.predict_offsets(pictures.input)
    taps = offset.unflatten(1, (9, 2)).permute(0, 3, 4, 1, 2)  # (B, H, W, 9, 2)
    inner = (slice(None), slice(FAR, -FAR), slice(FAR, -FAR))
    cue = pictures.input[:, 1]
    return tuple(taps[inner][cue[inner] == side].mean(0) for side in (-1, 1))
