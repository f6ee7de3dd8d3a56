"""Deformable convolution: arguments and documentation in two dimensions; checks in two and three.

What torch has to know about the operator (gradients, shapes, autocast) is in
`registration.py`, what it computes in `reference.py`, and how fast in cuda/.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segdcn.ops import autocast, library, reference, registration, transforms  # noqa: F401 (registers the operators)

Pair = int | tuple[int, int] | list[int]

LIMIT = 2**31 - 1  # positions and pixels of one image are counted in 32 bits
# Of a map, in order; the two of an image, or all three of a volume.
DIMENSIONS = ("depth", "height", "width")


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """Convolve, reading the input at positions moved by `offset`.

    For output pixel p and kernel tap k the input is read, bilinearly, at

        p * stride - padding + k * dilation + offset[k, p]

    and multiplied by `mask[k, p]`. The input counts as surrounded by zeros: reads at -1, at
    H (W) and beyond, and at NaN or infinite positions, give 0 and gradient 0. Zero offsets
    and no mask give `F.conv2d`. Signature, offset order and border are torchvision's; as there,
    the slope at whole pixels is the right-hand one, so at exactly -1, where the value is still
    0, the offset's gradient is not.

    Positions, weights and sums are computed in float32 (float64 for float64), whatever the
    input's dtype. Under autocast, input, weight and bias take the autocast dtype while
    offset and mask stay float32. On the CPU result and gradients are the same in every run with
    the same number of threads. On a GPU (not run yet) atomics add up the input's gradient, in any
    order, unless `torch.use_deterministic_algorithms(True)` is set.

    Differentiable any number of times; from the second derivative on in plain torch, slowly,
    in memory that does not grow with the batch. torch.func's vmap, grad, vjp and jacrev work;
    forward-mode derivatives (jvp, jacfwd, hessian), compiled ones too, are computed in plain
    torch, with the columns of the whole batch in memory.

    Args:
        input: Feature map (B, C, H, W); float16, bfloat16, float32 or float64. A
            channels-last input gives a channels-last result and is not copied.
        offset: Displacements in input pixels, (B, 2*G*K, Ho, Wo) for K = kh*kw taps,
            (dy, dx) interleaved per tap. The number of offset groups G is read from this
            shape: channels g*C/G to (g+1)*C/G of the input use offset group g. float32, or
            the input's dtype.
        weight: Kernel (O, C/groups, kh, kw) of the input's dtype; `groups` is read from it.
        bias: Added to each output channel, (O,).
        stride: Step between output pixels, in input pixels; int or (height, width).
        padding: Zeros on each side, in input pixels; int or (height, width).
        dilation: Distance of the taps, in input pixels; int or (height, width).
        mask: Factor of each read, (B, G*K, Ho, Wo); None is 1 everywhere (DCNv1). float32,
            or the input's dtype.

    Returns:
        The result (B, O, Ho, Wo) of the input's dtype.

    Raises:
        ValueError: A shape, dtype, device or setting does not fit, or is beyond what 32 bits
            count: H*W, padded lengths, strides. The message names the argument, what it is
            and what it should be.
        ImportError: The extension is not built; the message says how to build it.

    Source: Dai et al. 2017, eq. 2; Zhu et al. 2018, eq. 1.
    """
    return convolve(2, input, offset, weight, bias, stride, padding, dilation, mask)


def convolve(
    dims: int,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    mask: Tensor | None,
) -> Tensor:
    """Check the arguments and call the operator of `dims` dimensions."""
    _check_shapes(dims, input, offset, weight, bias, mask)
    stride = each("stride", stride, dims, minimum=1)
    padding = each("padding", padding, dims, minimum=0)
    dilation = each("dilation", dilation, dims, minimum=1)
    _check_output_size(input, offset, weight, stride, padding, dilation)
    _check_dtypes(input, offset, weight, bias, mask)
    library.require(input.device)

    if autocast.enabled(input.device):
        # Here and not only in the dispatcher, which torch.func and the definition come before.
        input, weight, bias = autocast.cast(input.device.type, input, weight, bias)
    if transforms.forward_mode_active(input, offset, weight, bias, mask):
        return _by_definition(input, offset, weight, bias, stride, padding, dilation, mask)
    return transforms.forward(
        input,
        weight,
        offset,
        mask,
        bias,
        stride,
        padding,
        dilation,
        input.shape[1] // weight.shape[1],
        offset.shape[1] // (dims * math.prod(weight.shape[2:])),
        input.stride(1) == 1 and not input.is_contiguous(),
        input.is_cuda and input.dtype == torch.float32 and _tf32_allowed(),
    )


@torch.compiler.assume_constant_result  # what a compiled network was traced with stays
def _tf32_allowed() -> bool:
    """Whether float32 convolutions may round to TF32 (torch.backends.cudnn.conv.fp32_precision)."""
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _by_definition(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    mask: Tensor | None,
) -> Tensor:
    """Compute in plain torch, which has forward-mode derivatives."""
    exact = torch.float64 if input.dtype == torch.float64 else torch.float32
    with autocast.off(input.device):
        result = reference.deform_conv(
            input.to(exact),
            offset.to(exact),
            weight.to(exact),
            None if bias is None else bias.to(exact),
            stride,
            padding,
            dilation,
            None if mask is None else mask.to(exact),
        )
    return result.to(input.dtype)


def each(name: str, value: int | Sequence[int], dims: int, minimum: int) -> list[int]:
    """Return one number per dimension of a setting that may be one for all, of any integral type.

    Raises:
        ValueError: These are not as many whole numbers, or one is too small or too large.
    """
    items: list = list(value) if isinstance(value, (tuple, list)) else [value] * dims
    items = [v if isinstance(v, int) else whole(v) for v in items]
    if len(items) != dims or any(isinstance(v, bool) or not isinstance(v, int) or v < minimum for v in items):
        names = ", ".join(DIMENSIONS[-dims:])
        raise ValueError(f"{name} is {value!r}, but must be an int or ({names}), each at least {minimum}")
    if max(items) > LIMIT:
        raise ValueError(f"{name} is {value!r}, but must be at most {LIMIT}: positions are counted in 32 bits")
    return items


def whole(value: Any) -> Any:
    """Return the int that a whole number of another type stands for; anything else as it is, to be refused."""
    try:
        return operator.index(value)
    except TypeError:
        return value


def _check_shapes(
    dims: int, input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> None:
    """Check what does not depend on stride, padding and dilation."""
    tensors = {"input": input, "offset": offset, "weight": weight}
    if mask is not None:
        tensors["mask"] = mask
    if bias is not None:
        tensors["bias"] = bias
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, but must be a tensor")
        if name != "bias" and tensor.dim() != dims + 2:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but must have {dims + 2} dimensions")
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device}, but input is on {input.device}; move them together")
    channels, out_channels = input.shape[1], weight.shape[0]
    kernel, taps = "x".join(map(str, weight.shape[2:])), math.prod(weight.shape[2:])
    if min(input.shape[1:]) < 1:
        raise ValueError(f"input has shape {tuple(input.shape)}; only the batch may be empty")
    if min(out_channels, weight.shape[1], taps) < 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; no dimension may be empty")
    if channels % weight.shape[1] != 0:
        raise ValueError(
            f"input has {channels} channels and weight {weight.shape[1]} per group; the first must be a "
            "multiple of the second"
        )
    groups = channels // weight.shape[1]
    if out_channels % groups != 0:
        raise ValueError(
            f"weight has {out_channels} output channels, but with {groups} groups it must be a multiple of {groups}"
        )
    if offset.shape[1] == 0 or offset.shape[1] % (dims * taps) != 0:
        displacement = "(dy, dx) pair" if dims == 2 else "(dz, dy, dx) triple"
        raise ValueError(
            f"offset has {offset.shape[1]} channels, but a {kernel} kernel needs a multiple of "
            f"{dims * taps}: one {displacement} per tap and offset group"
        )
    offset_groups = offset.shape[1] // (dims * taps)
    if channels % offset_groups != 0:
        raise ValueError(
            f"offset has {offset.shape[1]} channels, which makes {offset_groups} offset groups, but the input's "
            f"{channels} channels cannot be divided into {offset_groups} equal groups"
        )
    if mask is not None and mask.shape[1] != offset_groups * taps:
        raise ValueError(
            f"mask has {mask.shape[1]} channels, but {offset_groups} offset groups of a {kernel} kernel "
            f"need {offset_groups * taps}: one per tap and offset group"
        )
    if mask is not None and mask.shape[:1] + mask.shape[2:] != offset.shape[:1] + offset.shape[2:]:
        size = f"{', '.join(DIMENSIONS[-dims:-1])} and width"
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, but offset {tuple(offset.shape)}; batch, {size} must agree"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != out_channels):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, but must be ({out_channels},): one per output channel")


def _check_output_size(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> None:
    """Check that offset has the batch and the size of the result."""
    dims, kernel_size = len(stride), weight.shape[2:]
    # Not while compiling, where they would narrow the sizes that a program is exported for;
    # the kernels check the number of pixels again.
    limited = not torch.compiler.is_compiling()
    if limited and math.prod(input.shape[2:]) >= LIMIT:
        raise ValueError(
            f"input has shape {tuple(input.shape)}, but {' times '.join(DIMENSIONS[-dims:])} must be less than "
            f"{LIMIT}: the pixels of an image are counted in 32 bits"
        )
    size = []
    for i in range(dims):
        span = dilation[i] * (kernel_size[i] - 1) + 1
        length = input.shape[2 + i] + 2 * padding[i]
        if limited and length > LIMIT:
            raise ValueError(
                f"padding {padding[i]} makes the input {length} pixels long in {DIMENSIONS[i - dims]}, but it may "
                f"be at most {LIMIT}: positions are counted in 32 bits"
            )
        if length < span:
            raise ValueError(
                f"the kernel spans {span} pixels in {DIMENSIONS[i - dims]} (kernel {kernel_size[i]}, dilation "
                f"{dilation[i]}), but the padded input has {length}"
            )
        size.append((length - span) // stride[i] + 1)
    if (offset.shape[0], *offset.shape[2:]) != (input.shape[0], *size):
        expected = ", ".join(map(str, (input.shape[0], offset.shape[1], *size)))
        raise ValueError(
            f"offset has shape {tuple(offset.shape)}, but this convolution needs ({expected}): the batch of the "
            "input and the size of the result"
        )


def _check_dtypes(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if input.dtype not in known:
        raise ValueError(f"input has dtype {input.dtype}, but must be float16, bfloat16, float32 or float64")
    if not autocast.enabled(input.device) or input.dtype == torch.float64:  # elsewhere autocast makes them equal
        for name, tensor in {"weight": weight, "bias": bias}.items():
            if tensor is not None and tensor.dtype != input.dtype:
                raise ValueError(f"{name} has dtype {tensor.dtype}, but input has {input.dtype}; convert one of them")
    fields = (torch.float64,) if input.dtype == torch.float64 else known[:3]
    for name, tensor in {"offset": offset, "mask": mask}.items():
        if tensor is not None and tensor.dtype not in fields:
            expected = "float64 like input" if input.dtype == torch.float64 else "float32 or a half-precision dtype"
            raise ValueError(f"{name} has dtype {tensor.dtype}, but must be {expected}")
