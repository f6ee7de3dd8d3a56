"""Convolutions that learn where to read, in two and three dimensions."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from segdcn.errors import UserValueError
from segdcn.ops import autocast, deform_conv2d, deform_conv3d


class _DeformableConv(_ConvNd):
    """What layers of two and of three dimensions share, which is all but the functions they call."""

    _plain_layer: ClassVar[Callable[..., nn.Conv2d | nn.Conv3d]]
    _plain_convolution: ClassVar[Callable[..., Tensor]]
    _deformable_convolution: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        modulated: bool = True,
        offset_groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise UserValueError(f"padding is {padding!r}, but a deformable convolution needs it in pixels")
        if offset_groups < 1 or in_channels % offset_groups != 0:
            raise UserValueError(f"offset_groups is {offset_groups}, but must divide the {in_channels} input channels")
        # nn.Conv2d's or nn.Conv3d's, which comes after this class.
        plain: tuple[Any, ...] = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(*plain, **made)
        self.modulated = modulated
        self.offset_groups = offset_groups
        dims = len(self.kernel_size)
        fields = (dims + modulated) * offset_groups * self.num_taps
        self.offset_conv = self._plain_layer(in_channels, fields, kernel_size, stride, padding, dilation, **made)
        nn.init.zeros_(self.offset_conv.weight)
        assert self.offset_conv.bias is not None
        nn.init.zeros_(self.offset_conv.bias)

    @classmethod
    def from_conv(cls, conv: _ConvNd, *, modulated: bool = True, offset_groups: int = 1) -> Self:
        """Make the deformable twin of `conv`, which computes the same and shares its parameters.

        Raises:
            UserValueError: `conv` is another kind of convolution, or pads with something else than zeros.
        """
        plain = nn.Conv2d if issubclass(cls, nn.Conv2d) else nn.Conv3d
        if not isinstance(conv, plain):
            raise UserValueError(
                f"conv is a {type(conv).__name__}, but {cls.__name__} can only be made of a {plain.__name__}"
            )
        if conv.padding_mode != "zeros":
            raise UserValueError(f"padding_mode is {conv.padding_mode!r}, but a deformable convolution reads zeros")
        layer = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,
            conv.groups,
            bias=conv.bias is not None,
            modulated=modulated,
            offset_groups=offset_groups,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        layer.weight, layer.bias = conv.weight, conv.bias
        return layer.train(conv.training)

    @property
    def num_taps(self) -> int:
        """K, the number of taps of the kernel."""
        return math.prod(self.kernel_size)

    def predict_offsets(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict where to read, from the same input.

        Args:
            input: Feature map (B, C, H, W) or (B, C, D, H, W).

        Returns:
            offset (B, dims*G*K, ...) in input pixels, and mask (B, G*K, ...) in (0, 2) or None
            without modulation, of the result's size; float32, or float64 for float64 input.
        """
        exact = torch.float64 if input.dtype == torch.float64 else torch.float32
        conv = self.offset_conv
        assert conv.bias is not None
        with autocast.off(input.device):
            field = self._plain_convolution(
                input.to(exact),
                conv.weight.to(exact),
                conv.bias.to(exact),
                conv.stride,
                conv.padding,
                conv.dilation,
            )
        num_offsets = len(self.kernel_size) * self.offset_groups * self.num_taps
        if not self.modulated:
            return field, None
        return field[:, :num_offsets], 2 * field[:, num_offsets:].sigmoid()

    def forward(self, input: Tensor) -> Tensor:
        """Predict offsets, then convolve with them: (B, C, ...) -> (B, O, ...)."""
        offset, mask = self.predict_offsets(input)
        stride, padding, dilation = list(self.stride), list(self.padding), list(self.dilation)
        return self._deformable_convolution(input, offset, self.weight, self.bias, stride, padding, dilation, mask)

    def extra_repr(self) -> str:
        """Show the deformable settings after the plain layer's."""
        return f"{super().extra_repr()}, modulated={self.modulated}, offset_groups={self.offset_groups}"


class DeformableConv2d(_DeformableConv, nn.Conv2d):
    """A convolution whose reading positions, and their weights, are predicted from its input.

        field    = offset_conv(input)                  a plain convolution, initialised to zero
        offset   = field[:, :2*G*K]                    (dy, dx) per tap, in input pixels
        mask     = 2 * sigmoid(field[:, 2*G*K:])       modulation, in (0, 2)
        output   = deform_conv2d(input, offset, weight, bias, mask=mask)

    A fresh layer has offset 0 and modulation 1, so it equals the convolution with the same
    `weight` and `bias`; those keep their names in the state dict, and only the keys of
    `offset_conv` are new. Offsets are predicted in float32 also under autocast and in
    half-precision networks: in bfloat16 an offset of 20 pixels would be off by up to 1/16.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Size of the kernel, and of `offset_conv`'s; int or (height, width).
        stride: As in nn.Conv2d.
        padding: As in nn.Conv2d, zeros only; int or (height, width).
        dilation: As in nn.Conv2d.
        groups: Groups of `weight`. `offset_conv` always sees all channels.
        bias: Whether the convolution itself has a bias; `offset_conv` always has one.
        modulated: Predict a modulation per read too (DCNv2); False is the first paper's layer.
        offset_groups: G, how many groups of channels get offsets of their own.

    Shape:
        (B, C, H, W) -> (B, O, Ho, Wo), as nn.Conv2d.

    Raises:
        UserValueError: A setting that deformable convolution does not have.

    Source: Dai et al. 2017, section 2.1; Zhu et al. 2018, eq. 1. The factor 2, with which a
    fresh layer is the plain convolution rather than half of it, is not in the papers.
    """

    _plain_layer = nn.Conv2d
    _plain_convolution = staticmethod(F.conv2d)
    _deformable_convolution = staticmethod(deform_conv2d)


class DeformableConv3d(_DeformableConv, nn.Conv3d):
    """DeformableConv2d's twin for volumes and videos.

    Offsets are (dz, dy, dx) per tap, 3*G*K channels of `offset_conv`; all else, names and
    start included, is as in DeformableConv2d.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Size of the kernel, and of `offset_conv`'s; int or (depth, height, width).
        stride: As in nn.Conv3d.
        padding: As in nn.Conv3d, zeros only; int or (depth, height, width).
        dilation: As in nn.Conv3d.
        groups: Groups of `weight`. `offset_conv` always sees all channels.
        bias: Whether the convolution itself has a bias; `offset_conv` always has one.
        modulated: Predict a modulation per read too; False is offsets alone.
        offset_groups: G, how many groups of channels get offsets of their own.

    Shape:
        (B, C, D, H, W) -> (B, O, Do, Ho, Wo), as nn.Conv3d.

    Raises:
        UserValueError: A setting that deformable convolution does not have.
    """

    _plain_layer = nn.Conv3d
    _plain_convolution = staticmethod(F.conv3d)
    _deformable_convolution = staticmethod(deform_conv3d)
