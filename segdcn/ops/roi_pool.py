"""Deformable pooling of regions of interest: arguments, documentation, checks.

What torch has to know about the operators (gradients, shapes, autocast) is in `roi_registration.py`, what they
compute in `roi_reference.py`, and how fast in cuda/.
"""

import math
import numbers

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, get_proxy_mode

from segdcn.ops import library, roi_registration, transforms
from segdcn.ops.deform_conv import whole

Size = int | tuple[int, int] | list[int]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def deform_roi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
    output_size: Size,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
) -> Tensor:
    """Average regions of a map in bins that `offset` moves.

    1. A region is scaled: x1 * spatial_scale - 0.5, and so on, so that pixels are points; it is
       cut into output_size bins.
    2. Bin (i, j) moves by gamma * width * offset[0, i, j] to the right and by
       gamma * height * offset[1, i, j] downwards: offsets do not depend on the region's size.
    3. The bin's value is the mean of sampling_ratio x sampling_ratio bilinear samples.

    Samples beyond -1 or H (W), and at NaN or infinite positions, count as 0; between there and the outermost
    pixels they read those. Without offsets this is torchvision.ops.roi_align(aligned=True), with
    them mmcv's deform_roi_pool; but the gradient of the offset is the derivative also where a sample is held
    at the border, where mmcv's is not. At whole pixels the slope is the right-hand one.

    A region of no or negative size gives 0 (with a sampling_ratio, its samples). On the CPU a
    batch index that does not exist is refused; on a GPU, where looking would mean waiting for
    it, such a region gives 0 and no gradient.

    Positions, weights and sums are computed in float32 (float64 for float64), whatever the input's dtype.
    Under autocast the input takes the autocast dtype, rois and offset stay float32. The result is the same in every
    run with the same number of threads; on a GPU the gradient of the input is so under
    torch.use_deterministic_algorithms(True). Differentiable any number of times in input and offset (not in rois);
    second and forward-mode derivatives and torch.func go through plain torch, slowly and with several copies of every
    sample in memory (second derivatives: of some regions at a time); torch.vmap over rois needs a sampling_ratio.

    Args:
        input: Feature map (B, C, H, W); float16, bfloat16, float32 or float64. A channels-last
            input gives a channels-last result.
        rois: Regions (R, 5): index of the image in the batch, x1, y1, x2, y2.
        offset: Displacement of each bin, (R, 2, output height, output width), x first; None
            for none. float32, or the input's dtype.
        output_size: Bins; int or (height, width).
        spatial_scale: Pixels of the map per unit of rois.
        sampling_ratio: Samples of a bin along each axis; 0 for one per pixel, rounded up.
        gamma: What an offset of 1 moves a bin by, as a part of the region's size.

    Returns:
        The means (R, C, output height, output width) of the input's dtype.

    Raises:
        ValueError: A shape, dtype, device or setting does not fit. The message names the
            argument, what it is and what it should be.
        ImportError: The extension is not built; the message says how to build it.

    Source: Dai et al. 2017, section 2.2; mmcv's deform_roi_pool.
    """
    size = bins(output_size)
    _check_tensors(input, rois, offset)
    _check_offset(offset, rois, size, "output_size", 2)
    scale, gamma = number("spatial_scale", spatial_scale, positive=True), number("gamma", gamma)
    samples = count("sampling_ratio", sampling_ratio, minimum=0)
    _check_images(input, rois)
    settings = (size, scale, samples, gamma, _channels_last(input))
    if roi_registration.needs_definition(input, offset):
        return roi_registration.by_definition("deform_roi_pool", input, rois, offset, settings)
    library.require(input.device)
    return torch.ops.segdcn.deform_roi_pool(input, rois.detach(), offset, *settings)


def deform_psroi_pool(
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None = None,
    *,
    output_dim: int,
    group_size: int,
    output_size: Size | None = None,
    part_size: Size | None = None,
    samples_per_part: int = 4,
    trans_std: float = 0.1,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Average regions in bins that each read channels of their own and that `offset` moves.

    1. A region is rounded to whole units, halves away from zero, its last pixel belongs to it;
       x1 becomes x1 * spatial_scale - 0.5 and x2 (x2 + 1) * spatial_scale - 0.5. It is at least 0.1 pixels
       high and wide, and cut into output_size bins.
    2. Bin (i, j) of output channel c reads input channel (c * group_size + gi) * group_size + gj with
       gi = i * group_size // height of the output, gj likewise.
    3. For its class it moves by trans_std * width * offset[2 * class] to the right and
       trans_std * height * offset[2 * class + 1] downwards, each at part (i, j) * part_size // output_size.
    4. Its value is the mean of those of samples_per_part x samples_per_part bilinear samples, from its corner on,
       that lie within half a pixel of the map; 0 if none does.

    This is MXNet's DeformablePSROIPooling, and OpenVINO's DeformablePSROIPooling-1, whose names the settings have. The
    slope at whole pixels is the right-hand one (MXNet's is 0 there). All else is as in deform_roi_pool: batch indices,
    NaN, precision, autocast, reproducibility, derivatives.

    Args:
        input: Feature map (B, output_dim * group_size**2, H, W); float16, bfloat16, float32 or float64. A
            channels-last input gives a channels-last result.
        rois: Regions (R, 5): index of the image in the batch, x1, y1, x2, y2.
        offset: Displacement of each part, (R, 2 * classes, part height, part width), x before
            y for each class; the output channels are divided evenly among the classes. None for none.
        output_dim: Channels of the result.
        group_size: Groups of channels along each axis.
        output_size: Bins; int or (height, width). None is group_size.
        part_size: Parts that have an offset; int or (height, width). None is output_size.
        samples_per_part: Samples of a bin along each axis.
        trans_std: What an offset of 1 moves a bin by, as a part of the region's size.
        spatial_scale: Pixels of the map per unit of rois.

    Returns:
        The means (R, output_dim, output height, output width) of the input's dtype.

    Raises:
        ValueError: A shape, dtype, device or setting does not fit. The message names the
            argument, what it is and what it should be.
        ImportError: The extension is not built; the message says how to build it.

    Source: Dai et al. 2017, section 2.2; MXNet's DeformablePSROIPooling.
    """
    group_size = count("group_size", group_size, minimum=1)
    output_dim = count("output_dim", output_dim, minimum=1)
    size = [group_size] * 2 if output_size is None else bins(output_size)
    parts = size if part_size is None else bins(part_size, "part_size")
    samples = count("samples_per_part", samples_per_part, minimum=1)
    scale, trans_std = number("spatial_scale", spatial_scale, positive=True), number("trans_std", trans_std)
    _check_tensors(input, rois, offset)
    if input.shape[1] != output_dim * group_size**2:
        raise ValueError(
            f"input has {input.shape[1]} channels, but output_dim {output_dim} and group_size {group_size} need "
            f"{output_dim * group_size**2}: output_dim for each of {group_size}x{group_size} groups"
        )
    _check_offset(offset, rois, parts, "part_size", None)
    if offset is not None and output_dim % (offset.shape[1] // 2) != 0:
        raise ValueError(
            f"offset has {offset.shape[1]} channels, which makes {offset.shape[1] // 2} classes, but output_dim "
            f"{output_dim} cannot be divided among them"
        )
    _check_images(input, rois)
    settings = (output_dim, group_size, size, parts, samples, trans_std, scale, _channels_last(input))
    if roi_registration.needs_definition(input, offset):
        return roi_registration.by_definition("deform_psroi_pool", input, rois, offset, settings)
    library.require(input.device)
    return torch.ops.segdcn.deform_psroi_pool(input, rois.detach(), offset, *settings)


# ---------------------------------------------------------------- checks


def _channels_last(input: Tensor) -> bool:
    return input.stride(1) == 1 and not input.is_contiguous()


def bins(value: Size, name: str = "output_size") -> list[int]:
    """Return (height, width), checked; a ValueError names what does not fit."""
    size = [whole(v) for v in (value if isinstance(value, (tuple, list)) else [value, value])]
    most = 1 << 14
    if len(size) != 2 or any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= most for v in size):
        raise ValueError(f"{name} is {value!r}, but must be an int or (height, width), each from 1 to {most}")
    return size


def count(name: str, value: int, minimum: int) -> int:
    """Return a whole number, checked likewise."""
    most = 1 << 24 if "sampl" in name else 1 << 14
    value = whole(value)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= most:
        raise ValueError(f"{name} is {value!r}, but must be an int from {minimum} to {most}")
    return value


def number(name: str, value: float, positive: bool = False) -> float:
    """Return a finite number, checked likewise."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # Comparisons, which torch.compile can trace for a number that varies; math.isfinite it cannot.
    if not real or not -math.inf < value < math.inf or (positive and value <= 0):
        raise ValueError(f"{name} is {value!r}, but must be a {'positive ' if positive else ''}finite number")
    return float(value)


def _check_tensors(input: Tensor, rois: Tensor, offset: Tensor | None) -> None:
    tensors = {"input": input, "rois": rois} | ({} if offset is None else {"offset": offset})
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, but must be a tensor")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} has dtype {tensor.dtype}, but must be float16, bfloat16, float32 or float64")
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device}, but input is on {input.device}; move them together")
    if input.dim() != 4:
        raise ValueError(f"input has shape {tuple(input.shape)}, but must have 4 dimensions: (B, C, H, W)")
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input has shape {tuple(input.shape)}; only the batch may be empty")
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois has shape {tuple(rois.shape)}, but must be (R, 5): index of the image, x1, y1, x2, y2")
    if offset is not None and (offset.dtype == torch.float64) != (input.dtype == torch.float64):
        expected = "float64 like input" if input.dtype == torch.float64 else "float32 or a half-precision dtype"
        raise ValueError(f"offset has dtype {offset.dtype}, but must be {expected}")


def _check_offset(offset: Tensor | None, rois: Tensor, parts: list[int], name: str, channels: int | None) -> None:
    """Check the shape of an offset: `channels`, or any even number of them."""
    if offset is None:
        return
    wanted = "an even number of channels" if channels is None else f"{channels} channels"
    if offset.dim() != 4 or (offset.shape[1] != channels if channels else offset.shape[1] < 2 or offset.shape[1] % 2):
        raise ValueError(
            f"offset has shape {tuple(offset.shape)}, but must have 4 dimensions and {wanted}: "
            "x and y displacements of each part of a region"
        )
    expected = (rois.shape[0], parts[0], parts[1])
    if (offset.shape[0], offset.shape[2], offset.shape[3]) != expected:
        raise ValueError(
            f"offset has shape {tuple(offset.shape)}, but must be ({expected[0]}, {offset.shape[1]}, {expected[1]}, "
            f"{expected[2]}): the number of rois, and {name}"
        )


def _check_images(input: Tensor, rois: Tensor) -> None:
    """Refuse batch indices that do not exist, where looking costs nothing."""
    # A traced graph cannot branch on values; the kernels give 0 for such a region.
    if rois.device.type != "cpu" or torch.compiler.is_compiling() or transforms.transforms_active():
        return
    if isinstance(rois, FakeTensor) or isinstance(get_proxy_mode(), ProxyTorchDispatchMode):  # shapes only; make_fx
        return
    index = rois.detach()[:, 0]
    wrong = ~((index >= 0) & (index < input.shape[0]))  # true for NaN
    if not wrong.any():
        return
    row = int(wrong.nonzero()[0, 0])
    images = f"{input.shape[0]} images: it must be from 0 to {input.shape[0] - 1}" if len(input) else "no images"
    raise ValueError(f"rois[{row}] has batch index {float(index[row]):g}, but input has {images}")
