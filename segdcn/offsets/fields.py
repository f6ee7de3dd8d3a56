"""What deformable layers predicted for one image.

A layer reads, for output pixel p and tap k, its input at

    p * stride - padding + k * dilation + offset[k, p]

in pixels of its input map. `Frame` says where those are in the image. Nothing is rounded.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets.frames import Frame, frames

IntPair = tuple[int, int]


@dataclass(frozen=True)
class SamplingField:
    """What one deformable layer predicted for one image.

    Attributes:
        name: The layer's name in the network.
        offset: Displacement of each read in pixels of the layer's input, (G, K, 2, Ho, Wo), (dy, dx).
        modulation: Factor of each read, (G, K, Ho, Wo); ones for layers without modulation.
        modulated: Whether the layer predicts that factor.
        input_size: (height, width) of the layer's input.
        kernel_size: (kh, kw); K = kh * kw.
        stride: (vertical, horizontal) step from output pixel to output pixel.
        padding: (vertical, horizontal).
        dilation: (vertical, horizontal) distance of the taps before offsets.
        input_frame: Where the pixels of the input sit in the image.
        output_frame: Where the output's sit.
    """

    name: str
    offset: Tensor
    modulation: Tensor
    modulated: bool
    input_size: IntPair
    kernel_size: IntPair
    stride: IntPair
    padding: IntPair
    dilation: IntPair
    input_frame: Frame
    output_frame: Frame

    @property
    def output_size(self) -> IntPair:
        """(Ho, Wo), the size of the layer's output."""
        return self.offset.shape[3], self.offset.shape[4]

    @property
    def positions(self) -> Tensor:
        """Reading positions in pixels of the layer's input, (G, K, 2, Ho, Wo), (y, x)."""
        height, width = self.output_size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return self.base(rows.flatten(), columns.flatten()).unflatten(2, (height, width)) + self.offset

    def base(self, y: Tensor, x: Tensor) -> Tensor:
        """Return where output positions (P,) read without offsets, (K, 2, P); they may lie between pixels."""
        tap = torch.arange(self.kernel_size[0] * self.kernel_size[1])[:, None]
        rows = y * self.stride[0] - self.padding[0] + tap // self.kernel_size[1] * self.dilation[0]
        columns = x * self.stride[1] - self.padding[1] + tap % self.kernel_size[1] * self.dilation[1]
        return torch.stack([rows, columns], dim=1)


def sampling_field(name: str, layer: DeformableConv2d, input: Tensor, frame: Frame) -> SamplingField:
    """Compute where `layer` reads on `input` (1, C, H, W), whose pixels sit in the image as `frame` says."""
    offset, mask = layer.predict_offsets(input)  # (1, 2GK, Ho, Wo), (1, GK, Ho, Wo)
    groups, taps = layer.offset_groups, layer.num_taps
    offset = offset[0].unflatten(0, (groups, taps, 2))
    modulation = torch.ones_like(offset[:, :, 0]) if mask is None else mask[0].unflatten(0, (groups, taps))
    return SamplingField(
        name=name,
        offset=offset.cpu(),
        modulation=modulation.cpu(),
        modulated=layer.modulated,
        input_size=(input.shape[2], input.shape[3]),
        kernel_size=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=_pair(layer.padding),
        dilation=_pair(layer.dilation),
        input_frame=frame,
        output_frame=frame.after(layer),
    )


def _pair(setting: tuple[int, ...] | str) -> IntPair:
    return int(setting[0]), int(setting[1])


@torch.no_grad()
def record(run: Callable[[Tensor], object], network: nn.Module, image: Tensor) -> list[SamplingField]:
    """Run one image and return the fields of the deformable layers, in running order, on the CPU.

    Args:
        run: Called with the image; must run `network`, or the part of it with the deformable
            layers, or be it.
        network: Holds the deformable layers; see `frames` for what is asked of it.
        image: (1, 3, H, W).
    """
    with recording(network) as (fields,):
        run(image)
    return fields


@contextmanager
def recording(
    network: nn.Module, images: int = 1, counted: AbstractContextManager[object] | None = None
) -> Iterator[list[list[SamplingField]]]:
    """Keep what the deformable layers predict for the first images of the batch that runs next.

    Later batches are not listened to, also if the block has not ended. Offsets are predicted once more
    for it, which is all that it costs. A compiled network is not seen.

    Args:
        network: As in `record`.
        images: How many, at most.
        counted: Entered whenever a field is computed; a stopwatch.

    Yields:
        For each image the fields of the layers, in running order, on the CPU; filled as the network runs.
    """
    fields: list[list[SamplingField]] = [[] for _ in range(images)]

    @torch.no_grad()
    def keep(name: str, frame: Frame, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(layer, DeformableConv2d)
        hooks[name].remove()
        with counted or nullcontext():
            for image, of_image in zip(inputs[0].split(1), fields, strict=False):
                of_image.append(sampling_field(name, layer, image, frame))

    hooks = {
        name: network.get_submodule(name).register_forward_pre_hook(partial(keep, name, frame))
        for name, frame in frames(network).items()
    }
    try:
        yield fields
    finally:
        for hook in hooks.values():
            hook.remove()
