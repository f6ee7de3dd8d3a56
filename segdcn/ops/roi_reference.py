"""RoI poolings written in plain torch: their definition, and the judge in tests.

Slow and memory-hungry, differentiable in `input` and `offset` as often as one likes. Nothing here is shared with
cuda/, so that an error there cannot hide here.
"""

import torch
from torch import Tensor

from segdcn.errors import UserValueError

# A bin of more samples than this would take gigabytes here.
MAX_SAMPLES = 1 << 22


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Do what `segdcn.ops.deform_roi_pool` does, step by step; arguments as there.

    1. Scale each region; cut it into bins; move each bin by gamma * size of the region * offset.
    2. Put a grid of samples into each bin, read them bilinearly, and average.
    """
    pooled_h, pooled_w = (output_size, output_size) if isinstance(output_size, int) else output_size
    corners = rois[:, 1:].to(_exact(input)) * spatial_scale - 0.5
    height, width = corners[:, 3] - corners[:, 1], corners[:, 2] - corners[:, 0]
    bin_h, bin_w = height / pooled_h, width / pooled_w
    rows = torch.arange(pooled_h, dtype=bin_h.dtype, device=input.device)
    cols = torch.arange(pooled_w, dtype=bin_w.dtype, device=input.device)
    top = (corners[:, 1, None] + rows * bin_h[:, None])[:, :, None].expand(-1, -1, pooled_w)  # (R, ph, pw)
    left = (corners[:, 0, None] + cols * bin_w[:, None])[:, None, :].expand(-1, pooled_h, -1)
    if offset is not None:
        top = top + _finite(gamma * height)[:, None, None] * offset[:, 1]
        left = left + _finite(gamma * width)[:, None, None] * offset[:, 0]
    images = _images(input, rois)

    if sampling_ratio > 0:
        counts = [(slice(None), sampling_ratio, sampling_ratio)]
    else:  # regions whose bins have the same number of samples, together
        grids = torch.stack([_ceiling(bin_h), _ceiling(bin_w)], dim=1)
        counts = [((grids == grid).all(1), *map(int, grid.tolist())) for grid in torch.unique(grids, dim=0)]
    output = input.new_zeros(len(rois), input.shape[1], pooled_h, pooled_w)
    for which, samples_h, samples_w in counts:
        if samples_h * samples_w > MAX_SAMPLES:
            raise UserValueError(f"a bin has {samples_h} x {samples_w} samples, more than the definition can hold")
        if samples_h * samples_w == 0 or len(rois) == 0:
            continue
        step_y = (torch.arange(samples_h, dtype=bin_h.dtype, device=input.device) + 0.5) / samples_h
        step_x = (torch.arange(samples_w, dtype=bin_w.dtype, device=input.device) + 0.5) / samples_w
        y = top[which][..., None] + step_y * bin_h[which][:, None, None, None]  # (r, ph, pw, samples)
        x = left[which][..., None] + step_x * bin_w[which][:, None, None, None]
        values, _ = _read_grid(input, images[which], y, x, -1.0, 0.0)  # (r, C, ph, pw, samples_h, samples_w)
        means = values.sum((-2, -1)) / (samples_h * samples_w)
        output = means if isinstance(which, slice) else output.index_put((which.nonzero()[:, 0],), means)
    return output


def deform_psroi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    *,
    output_dim: int,
    group_size: int,
    output_size: int | tuple[int, int] | None = None,
    part_size: int | tuple[int, int] | None = None,
    samples_per_part: int = 4,
    trans_std: float = 0.1,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Do what `segdcn.ops.deform_psroi_pool` does, step by step; arguments as there.

    1. Round each region to pixels of the image, scale it, give it at least 0.1 pixels; cut it into bins.
    2. Move each bin of a class by trans_std * size of the region * offset of its part.
    3. Average the samples that lie within half a pixel of the map, from the bin's own group of channels.
    """
    size = group_size if output_size is None else output_size
    pooled_h, pooled_w = (size, size) if isinstance(size, int) else size
    part = (pooled_h, pooled_w) if part_size is None else part_size
    part_h, part_w = (part, part) if isinstance(part, int) else part
    boxes = _round(rois[:, 1:].to(_exact(input)))
    start = boxes[:, :2] * spatial_scale - 0.5  # x, y
    width, height = ((boxes[:, 2:] + 1) * spatial_scale - 0.5 - start).clamp_min(0.1).unbind(1)
    bin_h, bin_w = height / pooled_h, width / pooled_w

    rows = torch.arange(pooled_h, device=input.device)
    cols = torch.arange(pooled_w, device=input.device)
    top = (start[:, 1, None] + rows * bin_h[:, None])[:, None, :, None]  # (R, 1, ph, 1)
    left = (start[:, 0, None] + cols * bin_w[:, None])[:, None, None, :]
    classes = 1 if offset is None else offset.shape[1] // 2
    if offset is not None:
        fields = offset.unflatten(1, (classes, 2))
        fields = fields[:, :, :, (rows * part_h) // pooled_h][
            ..., (cols * part_w) // pooled_w
        ]  # (R, classes, 2, ph, pw)
        top = top + _finite(trans_std * height)[:, None, None, None] * fields[:, :, 1]
        left = left + _finite(trans_std * width)[:, None, None, None] * fields[:, :, 0]
    size_r = (len(rois), classes, pooled_h, pooled_w)
    top, left = top.expand(size_r), left.expand(size_r)
    steps = torch.arange(samples_per_part, dtype=bin_h.dtype, device=input.device)
    y = top[..., None] + steps * (bin_h / samples_per_part)[:, None, None, None, None]
    x = left[..., None] + steps * (bin_w / samples_per_part)[:, None, None, None, None]

    # Channels in the order (class, channel of the class, group row, group column).
    maps = input.unflatten(1, (classes, output_dim // classes, group_size, group_size))
    images = _images(input, rois)
    parts = []
    for cls in range(classes):
        by_row = []
        for i in range(pooled_h):
            by_col = []
            for j in range(pooled_w):
                group = maps[:, cls, :, i * group_size // pooled_h, j * group_size // pooled_w]
                where = (y[:, cls, i : i + 1, j : j + 1], x[:, cls, i : i + 1, j : j + 1])
                values, inside = _read_grid(group, images, *where, -0.5, -0.5)
                counted = inside.sum((-2, -1)).clamp_min(1)[:, None]
                by_col.append(values.sum((-2, -1)) / counted)  # (R, channels of the class, 1, 1)
            by_row.append(torch.cat(by_col, dim=3))
        parts.append(torch.cat(by_row, dim=2))
    return torch.cat(parts, dim=1)


def _exact(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _images(input: Tensor, rois: Tensor) -> Tensor:
    """Return the image of each region; -1 where there is none."""
    index = rois[:, 0]
    return torch.where((index >= 0) & (index < input.shape[0]), index, -1).long()


def _ceiling(size: Tensor) -> Tensor:
    """Return the samples of bins of this size; 0 for NaN, infinity and what is not positive."""
    return torch.where(torch.isfinite(size) & (size > 0), size.ceil(), 0).long()


def _round(x: Tensor) -> Tensor:
    """Round halves away from zero, as C does; torch rounds them to even numbers."""
    whole = x.trunc()
    return whole + torch.where((x - whole).abs() >= 0.5, x.sign(), 0)


def _read_grid(
    input: Tensor, images: Tensor, y: Tensor, x: Tensor, lowest: float, beyond: float
) -> tuple[Tensor, Tensor]:
    """Read every channel at the grids (y, x); 0 outside [lowest, size + beyond].

    Args:
        input: Maps (B, C, H, W).
        images: The image of each region (R,), or -1.
        y: Rows of the samples, (R, ph, pw, samples_h).
        x: Columns of the samples, (R, ph, pw, samples_w).
        lowest: Where the map begins to count.
        beyond: Where it ends, after its size.

    Returns:
        Values (R, C, ph, pw, samples_h, samples_w), and what lies inside, without C.
    """
    height, width = input.shape[2:]
    inside_y, top, bottom, weight_y = _line(y, height, lowest, beyond)
    inside_x, left, right, weight_x = _line(x, width, lowest, beyond)
    known = images >= 0
    inside = known[:, None, None, None, None] & inside_y[..., :, None] & inside_x[..., None, :]
    maps = input.movedim(1, -1).flatten(0, 2)  # (B*H*W, C), of which no region needs a copy
    first = (images.clamp_min(0) * (height * width))[:, None, None, None, None]

    def value(row: Tensor, col: Tensor) -> Tensor:
        return maps[first + row[..., :, None] * width + col[..., None, :]].movedim(-1, 1)

    wy, wx = weight_y[:, None, ..., :, None], weight_x[:, None, ..., None, :]
    upper = value(top, left) * (1 - wx) + value(top, right) * wx
    lower = value(bottom, left) * (1 - wx) + value(bottom, right) * wx
    # where, not a product: a NaN in the map must not reach samples that do not touch it.
    return torch.where(inside[:, None], upper * (1 - wy) + lower * wy, 0), inside


def _finite(reach: Tensor) -> Tensor:
    """Let no offset move a region of infinite or unknown size, which reads nothing: its gradient would be NaN."""
    return torch.where(reach.abs() < 1e30, reach, 0)


def _line(position: Tensor, size: int, lowest: float, beyond: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what is inside, the two pixels on either side, and the weight of the second."""
    inside = (position >= lowest) & (position <= size + beyond)  # False for NaN
    position = torch.where(inside, position, 0)
    # From the last pixel on the slope is 0; before the first one too, but not at it.
    free = (position >= 0) & (position < size - 1)
    position = torch.where(free, position, position.detach().clamp(0, size - 1))
    low = position.detach().floor().clamp_max(size - 1)
    return inside, low.long(), (low + 1).clamp_max(size - 1).long(), position - low
