"""All points that the last deformable layers read together, as in the paper's figure 5."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segdcn.offsets.fields import SamplingField


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


def output_pixel(field: SamplingField, place: tuple[float, float]) -> tuple[int, int]:
    """Find the output pixel (row, column) of a layer whose centre is nearest to a place (y, x) in the image."""
    row, column = output_pixels(field, torch.tensor(place[0]), torch.tensor(place[1]))
    return int(row), int(column)


def output_pixels(field: SamplingField, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rows and columns of the output pixels nearest to many places in the image.

    Of two that are as near, the one below or on the right, as trace.js does: no halves to even.
    """
    rows, columns = field.output_frame.to_map(y, x)
    height, width = field.output_size
    return (rows + 0.5).floor().clamp(0, height - 1).long(), (columns + 0.5).floor().clamp(0, width - 1).long()


def pixel_centre(field: SamplingField, place: tuple[float, float]) -> tuple[float, float]:
    """Return the centre (y, x), in image pixels, of the output pixel nearest to a place."""
    row, column = output_pixel(field, place)
    (top, left), (down, along) = field.output_frame.start, field.output_frame.stride
    return top + row * down, left + column * along


def trace(fields: Sequence[SamplingField], place: tuple[float, float], group: int = 0) -> Points:
    """Find what one output pixel reads on the image through a chain of deformable layers.

    K points for one layer, K*K for two, K*K*K for three:

    1. The last layer is asked at its output pixel nearest to `place`. Its K points are that
       pixel's base grid (stride, padding, dilation) plus the offsets predicted there.
    2. Each point lies between pixels of the layer's input, which the layer before made. That
       layer is asked there: the offsets and modulations of the four pixels around are
       interpolated bilinearly, as the values that are read there are. Again and again.
    3. Positions in the first layer's input become positions in the image by its frame.

    What comes between two deformable layers is read at its centre: ReLU, normalisation and 1x1
    convolutions do not move positions, strides scale them, and a plain 3x3 convolution stands
    for its middle tap. In the same way a point stands for all that a pixel of the first map
    sees around it.

    At the edge of a map, where reading mixes pixels with the zeros around, the offset is that of
    the edge's pixel, and the weight shrinks by the share of zeros. Points wholly outside the
    previous map end there, since nothing is read.

    Args:
        fields: The layers, in running order; the last one is the one asked first.
        place: (y, x) in image pixels.
        group: Offset group to follow.

    Returns:
        The points, in image pixels; those that left the image are among them.
    """
    y, x = (torch.tensor([centre]) for centre in pixel_centre(fields[-1], place))
    weight, tap = torch.ones(1), torch.zeros(1, dtype=torch.long)
    for field in reversed(fields):
        height, width = field.output_size
        y, x = field.output_frame.to_map(y, x)
        share = _share_inside(y, height) * _share_inside(x, width)
        inside = share > 0
        y, x, taps = y[inside].clamp(0, height - 1), x[inside].clamp(0, width - 1), field.offset.shape[1]
        offset = _interpolate(field.offset[group].flatten(0, 1), y, x).unflatten(0, (taps, 2))  # (K, 2, P)
        modulation = _interpolate(field.modulation[group], y, x)  # (K, P)
        read = field.base(y, x) + offset
        weight = ((weight * share)[inside] * modulation).T.flatten()  # point by point, its taps together
        tap = torch.arange(taps) if field is fields[-1] else tap[inside].repeat_interleave(taps)
        y, x = field.input_frame.to_image(read[:, 0].T.flatten(), read[:, 1].T.flatten())
    return Points(y=y, x=x, weight=weight, tap=tap)


def _share_inside(position: Tensor, length: int) -> Tensor:
    """Give the share that pixels 0 .. length-1 have in a linear reading; the rest are zeros around the map."""
    return (1 - torch.relu(-position) - torch.relu(position - (length - 1))).clamp(min=0)


def _interpolate(values: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Read maps (C, H, W) bilinearly at positions (P,) inside them; returns (C, P)."""
    height, width = values.shape[1:]
    top, left = y.floor().long().clamp(0, height - 1), x.floor().long().clamp(0, width - 1)
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, along = y - top, x - left
    above = values[:, top, left] * (1 - along) + values[:, top, right] * along
    below = values[:, bottom, left] * (1 - along) + values[:, bottom, right] * along
    return above * (1 - down) + below * down
