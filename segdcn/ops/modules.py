"""Operators as modules that are given their offsets, like torchvision's."""

import math

import torch
from torch import Tensor, nn

from segdcn.errors import UserValueError
from segdcn.ops.deform_conv import Pair, deform_conv2d, each


class DeformConv2d(nn.Module):
    """Deformable convolution with weights of its own and offsets given to `forward`.

    The twin of torchvision.ops.DeformConv2d: same arguments, attributes, parameters, start and
    state dict, so code written for it runs by changing the import. For a layer that predicts its
    own offsets see segdcn.layers.DeformableConv2d.

    torch.jit.script does not take it: the operator's arguments are checked in Python, and torch
    has deprecated TorchScript. Use torch.export or torch.compile.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Size of the kernel; int or (height, width).
        stride: Step between output pixels; int or (height, width).
        padding: Zeros on each side; int or (height, width).
        dilation: Distance of the taps; int or (height, width).
        groups: Groups of the weight.
        bias: Whether to add a bias.
        device: Where the parameters are made.
        dtype: Their dtype.

    Shape:
        input (B, C, H, W), offset (B, 2*G*K, Ho, Wo), mask (B, G*K, Ho, Wo) or None
        -> (B, O, Ho, Wo); see deform_conv2d.

    Raises:
        ValueError: The channels cannot be divided into `groups`, or a setting does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if groups < 1 or channels % groups != 0:
                raise UserValueError(f"{name} is {channels}, but must be a multiple of groups, which is {groups}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride = _pair("stride", stride, 1)
        self.padding = _pair("padding", padding, 0)
        self.dilation = _pair("dilation", dilation, 1)
        self.groups = groups
        size = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias as nn.Conv2d does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve `input`, read at positions moved by `offset` and multiplied by `mask`."""
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self) -> str:
        """Show the settings that differ from their defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0, 0) else ""
        text += f", dilation={self.dilation}" if self.dilation != (1, 1) else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        return text + ("" if self.bias is not None else ", bias=False")


def _pair(name: str, value: Pair, minimum: int) -> tuple[int, int]:
    height, width = each(name, value, 2, minimum)
    return height, width
