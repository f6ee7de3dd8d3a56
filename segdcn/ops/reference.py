"""The operators written in plain torch: their definition, and the judge in tests.

Slow and memory-hungry, on every device, differentiable as often as one likes. Nothing
here is shared with cuda/, so that an error there cannot hide here.
"""

import torch
from torch import Tensor


def bilinear_read(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read every channel of `input` at positions (y, x), as if it were surrounded by zeros.

    Args:
        input: Feature map (B, C, H, W).
        y: Row positions in pixels, (B, ...); NaN and infinite count as outside.
        x: Column positions in pixels, of the same shape.

    Returns:
        The values, (B, C, ...).
    """
    height, width = input.shape[2:]
    inside = (y >= -1) & (y < height) & (x >= -1) & (x < width)  # False for NaN
    y = torch.where(inside, y, 0)
    x = torch.where(inside, x, 0)
    top, left = y.detach().floor(), x.detach().floor()
    flat = input.flatten(2)  # (B, C, H*W)
    total = torch.zeros((), dtype=input.dtype, device=input.device)
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for col, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            valid = inside & (row >= 0) & (row < height) & (col >= 0) & (col < width)
            index = torch.where(valid, row * width + col, 0).long().flatten(1)  # (B, positions)
            value = flat.gather(2, index[:, None].expand(-1, input.shape[1], -1))
            value = value.unflatten(2, y.shape[1:])
            # where, not a product: a NaN in the map must not reach reads that do not touch it.
            total = total + torch.where(valid[:, None], value * (weight_y * weight_x)[:, None], 0)
    return total


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Do what `segdcn.ops.deform_conv2d` does, step by step; arguments as there, as pairs.

    1. For each offset group and tap, the positions: grid + dilation + offset.
    2. Read the group's channels there, bilinearly; multiply by the mask.
    3. Multiply the (tap, channel) values of each pixel by the weight; add the bias.
    """
    batch, channels = input.shape[:2]
    out_channels, per_group, kh, kw = weight.shape
    out_height, out_width = offset.shape[2:]
    offset_groups = offset.shape[1] // (2 * kh * kw)
    offset = offset.view(batch, offset_groups, kh, kw, 2, out_height, out_width)
    rows = torch.arange(out_height, dtype=offset.dtype, device=offset.device) * stride[0] - padding[0]
    cols = torch.arange(out_width, dtype=offset.dtype, device=offset.device) * stride[1] - padding[1]

    columns = []  # per offset group: (B, C/G, K, Ho, Wo)
    for group, part in enumerate(input.chunk(offset_groups, dim=1)):
        taps = []
        for i in range(kh):
            for j in range(kw):
                y = rows[:, None] + i * dilation[0] + offset[:, group, i, j, 0]
                x = cols[None, :] + j * dilation[1] + offset[:, group, i, j, 1]
                value = bilinear_read(part, y, x)
                if mask is not None:
                    value = value * mask[:, group * kh * kw + i * kw + j, None]
                taps.append(value)
        columns.append(torch.stack(taps, dim=2))
    stacked = torch.cat(columns, dim=1)  # (B, C, K, Ho, Wo)

    groups = channels // per_group
    stacked = stacked.view(batch, groups, per_group, kh * kw, out_height, out_width)
    kernels = weight.reshape(groups, out_channels // groups, per_group, kh * kw)
    output = torch.einsum("bgckhw,gock->bgohw", stacked, kernels)
    output = output.reshape(batch, out_channels, out_height, out_width)
    return output if bias is None else output + bias[None, :, None, None]
