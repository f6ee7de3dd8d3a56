"""Deformable layers in operators that every runtime has.

The operator of `segdcn.ops` needs its library, and ONNX's DeformConv a runtime that knows it. Here all
taps of all pixels are read at once, and a matrix product follows; that takes the memory of what was
read, K times the feature map.
"""

import copy
import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdcn.layers import DeformableConv2d, DeformableConv3d


def deform_conv(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    """Do what `segdcn.ops.deform_conv2d` and `deform_conv3d` do; one setting per dimension.

    1. For each offset group, tap and output pixel, the position: grid + dilation + offset.
    2. Read the group's channels at all of them; multiply by the mask.
    3. Multiply the (channel, tap) values of each pixel by the weight; add the bias.
    """
    batch, channels, *size = input.shape
    out_channels, per_group, *kernel = weight.shape
    out_size = offset.shape[2:]
    dims, taps, pixels = len(kernel), math.prod(kernel), math.prod(out_size)
    offset_groups = offset.shape[1] // (dims * taps)
    offset = offset.reshape(batch * offset_groups, taps, dims, *out_size)

    position = []  # per dimension: (B*G, K, Do, Ho, Wo)
    for d in range(dims):
        line = torch.arange(out_size[d], device=input.device) * stride[d] - padding[d]
        moved = [place[d] * dilation[d] for place in product(*map(range, kernel))]
        tap = torch.tensor(moved, device=input.device).view(-1, *[1] * dims)
        position.append(_near(offset[:, :, d] + tap + line.view(-1, *[1] * (dims - 1 - d)), size[d]))

    maps = input.reshape(batch * offset_groups, channels // offset_groups, *size)
    values = _sample(maps, position) if dims == 2 else _gather(maps, position)  # (B*G, C/G, K, Do, Ho, Wo)
    if mask is not None:
        values = values * mask.reshape(batch * offset_groups, 1, taps, *out_size)

    groups = channels // per_group
    columns = values.reshape(batch, groups, per_group * taps, pixels)
    kernels = weight.reshape(groups, out_channels // groups, per_group * taps)
    output = torch.matmul(kernels, columns).reshape(batch, out_channels, *out_size)
    return output if bias is None else output + bias.view(-1, *[1] * dims)


def _near(position: Tensor, size: int) -> Tensor:
    """Put what lies off the map, far away or at NaN, to the nearest place that reads 0.

    Runtimes differ in what they make of positions that fit no integer.
    """
    position = torch.where(position > -1, position, -1.0)  # not clamp, which keeps NaN
    return torch.where(position < size, position, size)


def _sample(maps: Tensor, position: Sequence[Tensor]) -> Tensor:
    """Read images bilinearly: one grid_sample, whose padding_mode zeros is this operator's border rule."""
    y, x = position
    # Its units, in which the image's outer edges are -1 and 1.
    grid = torch.stack([(2 * x + 1) / maps.shape[3] - 1, (2 * y + 1) / maps.shape[2] - 1], dim=-1)
    grid = grid.flatten(1, 2)  # (B*G, K*Ho, Wo, 2)
    values = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return values.reshape(*maps.shape[:2], *y.shape[1:])


def _gather(maps: Tensor, position: Sequence[Tensor]) -> Tensor:
    """Read volumes trilinearly, corner by corner: ONNX knows no GridSample of them before opset 20."""
    flat, total = maps.flatten(2), torch.zeros((), dtype=maps.dtype, device=maps.device)
    for corner in product((0, 1), repeat=len(position)):
        pixel = torch.zeros((), dtype=torch.int64, device=maps.device)
        share = torch.ones((), dtype=maps.dtype, device=maps.device)
        for step, at, size in zip(corner, position, maps.shape[2:], strict=True):
            index = at.floor() + step
            share = share * (1 - (at - index).abs()) * ((index >= 0) & (index < size))
            pixel = pixel * size + index.long().clamp(0, size - 1)
        chosen = pixel.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        total = total + flat.gather(2, chosen) * share.flatten(1)[:, None]
    return total.reshape(*maps.shape[:2], *position[0].shape[1:])


class PortableDeformableConv2d(DeformableConv2d):
    """DeformableConv2d in portable operators."""

    _deformable_convolution = staticmethod(deform_conv)  # type: ignore[assignment]  # layers give pairs


class PortableDeformableConv3d(DeformableConv3d):
    """DeformableConv3d in portable operators."""

    _deformable_convolution = staticmethod(deform_conv)  # type: ignore[assignment]


PORTABLE = {DeformableConv2d: PortableDeformableConv2d, DeformableConv3d: PortableDeformableConv3d}


def portable(network: nn.Module) -> nn.Module:
    """Copy a network, with its deformable convolutions in portable form; names of weights stay.

    Deformable RoI poolings have no such form and stay as they are.
    """
    holder = nn.ModuleDict({"network": copy.deepcopy(network)})  # so that the network itself may be such a layer
    for name, layer in list(holder.named_modules()):
        if type(layer) in PORTABLE:
            assert isinstance(layer, (DeformableConv2d, DeformableConv3d))
            twin = PORTABLE[type(layer)].from_conv(layer, modulated=layer.modulated, offset_groups=layer.offset_groups)
            twin.offset_conv = layer.offset_conv
            parent, _, child = name.rpartition(".")
            setattr(holder.get_submodule(parent), child, twin)
    return holder["network"]
