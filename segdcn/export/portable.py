"""Deformable layers in operators that every runtime has.

The operator of `segdcn.ops` needs its library, and ONNX's DeformConv a runtime that knows it. Here the
same is computed by one grid_sample, which reads all taps of all pixels, and a matrix product; it takes the
memory of the gathered columns, K times the feature map.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdcn.layers import DeformableConv2d, DeformableConv3d
from segdcn.ops import reference


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    """Do what `segdcn.ops.deform_conv2d` does; arguments as there, as pairs.

    1. For each offset group, tap and output pixel, the position: grid + dilation + offset.
    2. Read the group's channels at all of them, by one grid_sample; multiply by the mask.
    3. Multiply the (channel, tap) values of each pixel by the weight; add the bias.

    grid_sample with padding_mode zeros leaves out corners off the map, which is this operator's border rule.
    """
    batch, channels, height, width = input.shape
    out_channels, per_group, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps = kernel_h * kernel_w
    offset_groups = offset.shape[1] // (2 * taps)
    offset = offset.reshape(batch * offset_groups, taps, 2, out_h, out_w)

    position = []  # y, x: (B*G, K, Ho, Wo)
    tap = torch.arange(taps, device=input.device)
    for d, place in enumerate((tap // kernel_w, tap % kernel_w)):
        line = torch.arange(offset.shape[3 + d], device=input.device) * stride[d] - padding[d]
        line = line.view(-1, 1) if d == 0 else line
        position.append(offset[:, :, d] + (place * dilation[d]).view(-1, 1, 1) + line)
    grid = torch.stack([_normalised(position[1], width), _normalised(position[0], height)], dim=-1)
    grid = grid.reshape(batch * offset_groups, taps * out_h, out_w, 2)

    maps = input.reshape(batch * offset_groups, channels // offset_groups, height, width)
    values = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    values = values.reshape(batch, offset_groups, channels // offset_groups, taps, out_h * out_w)
    if mask is not None:
        values = values * mask.reshape(batch, offset_groups, 1, taps, out_h * out_w)

    groups = channels // per_group
    columns = values.reshape(batch, groups, per_group * taps, out_h * out_w)
    kernels = weight.reshape(groups, out_channels // groups, per_group * taps)
    output = torch.matmul(kernels, columns).reshape(batch, out_channels, out_h, out_w)
    return output if bias is None else output + bias.view(-1, 1, 1)


def _normalised(position: Tensor, size: int) -> Tensor:
    """Turn pixels into grid_sample's units, in which the map's outer edges are -1 and 1.

    What lies outside, far away or at NaN, is put to the nearest place that reads 0: runtimes differ in what
    they make of it.
    """
    position = torch.where(position > -1, position, -1.0)  # not clamp, which keeps NaN
    position = torch.where(position < size, position, size)
    return (2 * position + 1) / size - 1


class PortableDeformableConv2d(DeformableConv2d):
    """DeformableConv2d, computed by grid_sample."""

    _deformable_convolution = staticmethod(deform_conv2d)  # type: ignore[assignment]  # layers give pairs


class PortableDeformableConv3d(DeformableConv3d):
    """DeformableConv3d, computed by its definition: exporters know no grid_sample of volumes."""

    _deformable_convolution = staticmethod(reference.deform_conv3d)  # type: ignore[assignment]


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
