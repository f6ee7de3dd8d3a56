"""What torch has to know about the operators: gradients, shapes without data, autocast.

Registered from Python, so that the libraries need only the stable C++ interface.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard  # what torch's own autocast uses

from segdcn.ops import library, transforms
from segdcn.ops.second_derivative import second_gradients

# Keeps the registrations alive; deleting a Library takes its kernels back.
_library = torch.library.Library("segdcn", "IMPL") if library.cpu_problem is None else None


def _empty_image(like: Tensor, size: list, channels_last: bool) -> Tensor:
    """Return (B, C, ...) with exactly the strides that the C++ code gives its results."""
    if not channels_last:
        return like.new_empty(size)
    return like.new_empty([size[0], *size[2:], size[1]]).movedim(-1, 1)


def _fake_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
    channels_last: bool,
    allow_tf32: bool,
) -> Tensor:
    # The offset has the size of the result; the kernels check that it is the convolution's.
    return _empty_image(input, [input.shape[0], weight.shape[0], *offset.shape[2:]], channels_last)


def _fake_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    offset_groups: int,
    channels_last: bool,
    allow_tf32: bool,
    need_input: bool,
    need_weight: bool,
    need_offset: bool,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_input = _empty_image(input, list(input.shape), channels_last) if need_input else input.new_empty(0)
    grad_weight = _empty_image(weight, list(weight.shape), True) if need_weight else input.new_empty(0)
    grad_offset = _empty_image(offset, list(offset.shape), channels_last) if need_offset else input.new_empty(0)
    grad_mask = input.new_empty(0)
    if need_offset and mask is not None:
        grad_mask = _empty_image(mask, list(mask.shape), channels_last)
    return grad_input, grad_weight, grad_offset, grad_mask


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, weight, offset, mask, _, *ctx.settings = inputs
    ctx.save_for_backward(input, weight, offset, mask)


def first_gradients(ctx: Any, grad_output: Tensor) -> tuple:
    """Differentiate the convolution: one gradient, or None, for each of its arguments."""
    input, weight, offset, mask = ctx.saved_tensors
    need_input, need_weight, need_offset, need_mask, need_bias = ctx.needs_input_grad[:5]
    grad_input = grad_weight = grad_offset = grad_mask = grad_bias = None
    if need_input or need_weight or need_offset or need_mask:
        grad_input, grad_weight, grad_offset, grad_mask = transforms.backward(
            grad_output,
            input,
            weight,
            offset,
            mask,
            *ctx.settings,
            need_input,
            need_weight,
            need_offset or need_mask,
            torch.are_deterministic_algorithms_enabled(),
        )
    if need_bias:
        grad_bias = grad_output.sum((0, *range(2, grad_output.dim())))
    return (
        grad_input if need_input else None,
        grad_weight if need_weight else None,
        grad_offset if need_offset else None,
        grad_mask if need_mask else None,
        grad_bias,
        *[None] * len(ctx.settings),
    )


def _save_for_second_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad_output, input, weight, offset, mask, *ctx.settings = inputs
    ctx.save_for_backward(grad_output, input, weight, offset, mask)


def gradients_of_gradients(ctx: Any, *grads: Tensor) -> tuple:
    """Differentiate its backward: one gradient, or None, for each of its arguments."""
    results = second_gradients(grads, *ctx.saved_tensors, *ctx.settings[:3])
    return (*results, *[None] * len(ctx.settings))


def _autocast_kernel(device_type: str) -> Callable[..., Tensor]:
    key = DispatchKeySet(DispatchKey.AutocastCPU if device_type == "cpu" else DispatchKey.AutocastCUDA)

    def kernel(
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        bias: Tensor | None,
        *settings: Any,
    ) -> Tensor:
        # float64 stays, as in torch's own autocast; offsets and masks stay float32, because
        # positions of 17 to 40 pixels in bfloat16 are off by up to 1/16 of a pixel.
        dtype = torch.get_autocast_dtype(device_type)
        if input.dtype != torch.float64:
            input, weight = input.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        with _ExcludeDispatchKeyGuard(key):
            return transforms.forward_operator(settings[0])(input, weight, offset, mask, bias, *settings)

    return kernel


if _library is not None:
    for _name in ("deform_conv2d", "deform_conv3d"):
        _forward, _backward = f"segdcn::{_name}", f"segdcn::{_name}_backward"
        torch.library.register_fake(_forward, _fake_forward)
        torch.library.register_fake(_backward, _fake_backward)
        torch.library.register_autograd(_forward, first_gradients, setup_context=_save_for_backward)
        torch.library.register_autograd(_backward, gradients_of_gradients, setup_context=_save_for_second_backward)
        _library.impl(_name, _autocast_kernel("cpu"), "AutocastCPU")
        _library.impl(_name, _autocast_kernel("cuda"), "AutocastCUDA")
