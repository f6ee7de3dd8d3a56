"""The operators written in plain torch: their definition, and the judge in tests.

Slow and memory-hungry, on every device, differentiable as often as one likes. Nothing
here is shared with cuda/, so that an error there cannot hide here.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def linear_read(input: Tensor, position: Sequence[Tensor]) -> Tensor:
    """Read every channel of `input` at positions, as if it were surrounded by zeros.

    Bilinearly in a map (B, C, H, W), trilinearly in one (B, C, D, H, W).

    Args:
        input: Feature map.
        position: One tensor (B, ...) per dimension of the map, in pixels; NaN and infinite
            count as outside.

    Returns:
        The values, (B, C, ...).
    """
    sizes = input.shape[2:]
    inside = torch.ones((), dtype=torch.bool, device=input.device)
    for at, size in zip(position, sizes, strict=True):
        inside = inside & (at >= -1) & (at < size)  # False for NaN
    position = [torch.where(inside, at, 0) for at in position]
    first = [at.detach().floor() for at in position]
    flat = input.flatten(2)  # (B, C, D*H*W)
    total = torch.zeros((), dtype=input.dtype, device=input.device)
    for corner in product((0, 1), repeat=len(sizes)):
        pixel = torch.zeros_like(first[0])
        weight = torch.ones_like(first[0])
        valid = inside
        for step, at, low, size in zip(corner, position, first, sizes, strict=True):
            index = low + step
            valid = valid & (index >= 0) & (index < size)
            pixel = pixel * size + index
            weight = weight * (at - low if step else low + 1 - at)
        chosen = torch.where(valid, pixel, 0).long().flatten(1)  # (B, positions)
        value = flat.gather(2, chosen[:, None].expand(-1, input.shape[1], -1))
        value = value.unflatten(2, inside.shape[1:])
        # where, not a product: a NaN in the map must not reach reads that do not touch it.
        total = total + torch.where(valid[:, None], value * weight[:, None], 0)
    return total


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
    """Do what `segdcn.ops.deform_conv2d` and `deform_conv3d` do, step by step; one setting per dimension.

    1. For each offset group and tap, the positions: grid + dilation + offset.
    2. Read the group's channels there, linearly in each dimension; multiply by the mask.
    3. Multiply the (tap, channel) values of each pixel by the weight; add the bias.
    """
    batch, channels = input.shape[:2]
    out_channels, per_group, *kernel = weight.shape
    out_size = offset.shape[2:]
    dims, taps = len(kernel), math.prod(kernel)
    offset_groups = offset.shape[1] // (dims * taps)
    offset = offset.view(batch, offset_groups, taps, dims, *out_size)
    grid = []  # per dimension: where the first tap reads, to be broadcast with (Do, Ho, Wo)
    for d, size in enumerate(out_size):
        line = torch.arange(size, dtype=offset.dtype, device=offset.device) * stride[d] - padding[d]
        grid.append(line.view(-1, *[1] * (dims - 1 - d)))

    columns = []  # per offset group: (B, C/G, K, Do, Ho, Wo)
    for group, part in enumerate(input.chunk(offset_groups, dim=1)):
        reads = []
        for tap, place in enumerate(product(*map(range, kernel))):
            position = [grid[d] + place[d] * dilation[d] + offset[:, group, tap, d] for d in range(dims)]
            value = linear_read(part, position)
            if mask is not None:
                value = value * mask[:, group * taps + tap, None]
            reads.append(value)
        columns.append(torch.stack(reads, dim=2))
    stacked = torch.cat(columns, dim=1)  # (B, C, K, Do, Ho, Wo)

    groups = channels // per_group
    stacked = stacked.view(batch, groups, per_group, taps, math.prod(out_size))
    kernels = weight.reshape(groups, out_channels // groups, per_group, taps)
    output = torch.einsum("bgckp,gock->bgop", stacked, kernels)
    output = output.reshape(batch, out_channels, *out_size)
    return output if bias is None else output + bias.view(-1, *[1] * dims)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Do what `segdcn.ops.deform_conv2d` does; arguments as there, as pairs."""
    return deform_conv(input, offset, weight, bias, stride, padding, dilation, mask)


def deform_conv3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: Sequence[int] = (0, 0, 0),
    dilation: Sequence[int] = (1, 1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Do what `segdcn.ops.deform_conv3d` does; arguments as there, as triples."""
    return deform_conv(input, offset, weight, bias, stride, padding, dilation, mask)
