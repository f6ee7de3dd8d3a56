"""Where the pixels of a feature map sit in the image."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from segdcn.layers import DeformableConv2d

Pair = tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """Pixel q of a feature map is centred at `start + q * stride` in the image.

    Centred: what it sees through plain convolutions and poolings, its receptive field, lies
    symmetrically around that place (away from the image's border).

    Attributes:
        stride: Image pixels per pixel of the map, (vertical, horizontal).
        start: Centre (y, x) of pixel (0, 0), in image pixels; whole numbers are centres of pixels.
    """

    stride: Pair = (1.0, 1.0)
    start: Pair = (0.0, 0.0)

    def after(self, layer: nn.Module) -> "Frame":
        """Return the frame of what a convolution or pooling makes of a map of this frame.

        Its output pixel q reads q*s - p + k*d for k = 0 .. kernel-1, around q*s - p + d*(kernel-1)/2.
        """
        kernel, stride, padding, dilation = (_pair(getattr(layer, name, 1)) for name in _GEOMETRY)
        shift = [d * (k - 1) / 2 - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
        return Frame(
            stride=(self.stride[0] * stride[0], self.stride[1] * stride[1]),
            start=(self.start[0] + self.stride[0] * shift[0], self.start[1] + self.stride[1] * shift[1]),
        )

    def to_image(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map positions from pixels of the map to pixels of the image."""
        return self.start[0] + y * self.stride[0], self.start[1] + x * self.stride[1]

    def to_map(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map positions from pixels of the image to pixels of the map."""
        return (y - self.start[0]) / self.stride[0], (x - self.start[1]) / self.stride[1]


_GEOMETRY = ("kernel_size", "stride", "padding", "dilation")


def frames(network: nn.Module) -> dict[str, Frame]:
    """Find the frame of the input of every deformable layer, by the layer's name.

    Kernels, strides, paddings and dilations are read off the modules, which must be defined in
    the order in which they run, as those of our encoders are. Branches beside the trunk are
    left out: a ResNet's shortcuts (`downsample`), and what predicts offsets.
    """
    found, frame = {}, Frame()
    for name, module in network.named_modules():
        if "downsample" in name.split(".") or name.endswith("offset_conv"):
            continue
        if isinstance(module, DeformableConv2d):
            found[name] = frame
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            frame = frame.after(module)
    return found


def _pair(value: Any) -> Pair:
    """Return (vertical, horizontal) of a setting that may be one number."""
    return (value[0], value[1]) if isinstance(value, tuple) else (value, value)
