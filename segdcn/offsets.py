"""Where deformable layers read: exact positions, in numbers.

A layer reads, for output pixel p and tap k, its input at

    p * stride - padding + k * dilation + offset[k, p]

and pixel q of a feature map with stride s (image height / map height) sits at q * s in the
image: the strided convolutions and poolings of a ResNet are centred so. Everything here is
in this frame; nothing is rounded but where several layers are chained (`trace`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segdcn.layers import DeformableConv2d


@dataclass(frozen=True)
class SamplingField:
    """What one deformable layer predicted for one image.

    Attributes:
        name: The layer's name in the network.
        positions: Reading positions in pixels of the layer's input, (G, K, 2, Ho, Wo), (y, x).
        modulation: Factor of each read, (G, K, Ho, Wo); ones for layers without modulation.
        input_size: (height, width) of the layer's input.
        dilation: (height, width) distance of the taps before offsets.
    """

    name: str
    positions: Tensor
    modulation: Tensor
    input_size: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Points:
    """Points on the image that one output pixel reads.

    Attributes:
        y: Rows in image pixels, (P,).
        x: Columns in image pixels, (P,).
        weight: Product of the modulations on the way, (P,).
        tap: Index of the last layer's tap through which it is read, (P,).
    """

    y: Tensor
    x: Tensor
    weight: Tensor
    tap: Tensor


def sampling_field(name: str, layer: DeformableConv2d, input: Tensor) -> SamplingField:
    """Compute where `layer` reads on `input` (1, C, H, W)."""
    offset, mask = layer.predict_offsets(input)  # (1, 2GK, Ho, Wo), (1, GK, Ho, Wo)
    kh, kw = layer.kernel_size
    groups, taps = layer.offset_groups, layer.num_taps
    height, width = offset.shape[2:]
    offset = offset[0].reshape(groups, taps, 2, height, width)

    def grid(axis: int, length: int) -> Tensor:
        place = torch.arange(length, dtype=offset.dtype, device=offset.device)
        return place * layer.stride[axis] - int(layer.padding[axis])

    tap = torch.arange(taps, device=offset.device)
    y = grid(0, height)[None, :, None] + (tap // kw * layer.dilation[0])[:, None, None]  # (K, Ho, 1)
    x = grid(1, width)[None, None, :] + (tap % kw * layer.dilation[1])[:, None, None]  # (K, 1, Wo)
    base = torch.stack([y.expand(taps, height, width), x.expand(taps, height, width)], dim=1)
    modulation = torch.ones_like(offset[:, :, 0]) if mask is None else mask[0].reshape(groups, taps, height, width)
    return SamplingField(
        name=name,
        positions=(base + offset).cpu(),
        modulation=modulation.cpu(),
        input_size=(input.shape[2], input.shape[3]),
        dilation=(layer.dilation[0], layer.dilation[1]),
    )


@torch.no_grad()
def record(run: Callable[[Tensor], object], network: nn.Module, image: Tensor) -> list[SamplingField]:
    """Run one image and return the fields of the deformable layers, in running order, on the CPU.

    Args:
        run: Called with the image; must run `network`, or be it.
        network: Holds the deformable layers.
        image: (1, 3, H, W).
    """
    fields: list[SamplingField] = []

    def keep(name: str, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer, DeformableConv2d)
        fields.append(sampling_field(name, layer, inputs[0]))

    hooks = [
        module.register_forward_pre_hook(partial(keep, name))
        for name, module in network.named_modules()
        if isinstance(module, DeformableConv2d)
    ]
    try:
        run(image)
    finally:
        for hook in hooks:
            hook.remove()
    return fields


def trace(
    fields: Sequence[SamplingField], place: tuple[float, float], image_size: tuple[int, int], group: int = 0
) -> Points:
    """Find what one output pixel reads on the image through a chain of deformable layers.

    As in the paper's figure 5: K points for one layer, K*K for two, K*K*K for three. The
    last layer is asked at the pixel nearest to `place`; each layer before it at the pixels
    nearest to the points found so far. Points outside the previous map end there, since
    nothing is read.

    Args:
        fields: The layers, in running order; the last one is the one asked first.
        place: (y, x) in image pixels.
        image_size: (height, width) of the image.
        group: Offset group to follow.

    Returns:
        The points, in image pixels; those that left the image are among them.
    """
    last = fields[-1]
    out_size = last.positions.shape[3:]
    row = _nearest(torch.tensor([place[0] * out_size[0] / image_size[0]]), out_size[0])
    col = _nearest(torch.tensor([place[1] * out_size[1] / image_size[1]]), out_size[1])
    points = last.positions[group, :, :, row, col].squeeze(-1)  # (K, 2)
    weight = last.modulation[group, :, row, col].squeeze(-1)
    tap = torch.arange(len(points))
    input_size = last.input_size
    for field in reversed(fields[:-1]):
        height, width = field.positions.shape[3:]
        # The map in between may have another stride; positions scale with it.
        y, x = points[:, 0] * height / input_size[0], points[:, 1] * width / input_size[1]
        inside = (y > -1) & (y < height) & (x > -1) & (x < width)
        row, col = _nearest(y[inside], height), _nearest(x[inside], width)
        read = field.positions[group, :, :, row, col]  # (K, 2, P)
        points = read.permute(2, 0, 1).reshape(-1, 2)
        weight = (weight[inside, None] * field.modulation[group, :, row, col].T).reshape(-1)
        tap = tap[inside].repeat_interleave(read.shape[0])
        input_size = field.input_size
    y = points[:, 0] * image_size[0] / input_size[0]
    x = points[:, 1] * image_size[1] / input_size[1]
    return Points(y=y, x=x, weight=weight, tap=tap)


def _nearest(position: Tensor, length: int) -> Tensor:
    return position.round().long().clamp(0, length - 1)
