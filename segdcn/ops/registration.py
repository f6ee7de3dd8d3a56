"""What torch has to know about the operators: gradients, shapes without data, autocast.

Registered from Python, so that the libraries need only the stable C++ interface.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKeySet

from segdcn.ops import autocast, library, transforms
from segdcn.ops.second_derivative import second_gradients

# Keeps the registrations alive; deleting a Library takes its kernels back.
_library = torch.library.Library("segdcn", "IMPL") if library.cpu_problem is None else None


def empty_image(like: Tensor, size: list, channels_last: bool) -> Tensor:
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
    return empty_image(input, [input.shape[0], weight.shape[0], *offset.shape[2:]], channels_last)


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
    grad_input = empty_image(input, list(input.shape), channels_last) if need_input else input.new_empty(0)
    grad_weight = empty_image(weight, list(weight.shape), True) if need_weight else input.new_empty(0)
    grad_offset = empty_image(offset, list(offset.shape), channels_last) if need_offset else input.new_empty(0)
    grad_mask = input.new_empty(0)
    if need_offset and mask is not None:
        grad_mask = empty_image(mask, list(mask.shape), channels_last)
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
    ctx.set_materialize_grads(False)  # zeros for the whole batch, for each of the gradients not used


def gradients_of_gradients(ctx: Any, *grads: Tensor) -> tuple:
    """Differentiate its backward: one gradient, or None, for each of its arguments."""
    arguments = (*ctx.saved_tensors, *ctx.settings[:3], ctx.needs_input_grad[:5])
    results = second_gradients(grads, *arguments)
    return (*results, *[None] * len(ctx.settings))


def _autograd_kernel(operator: str, backward: Callable, setup_context: Callable) -> Callable[..., Any]:
    """Return what torch.library.register_autograd registers, which would drop tangents without a word."""
    from torch._library.autograd import Info, make_autograd_impl  # what it uses itself

    registered = make_autograd_impl(getattr(torch.ops.segdcn, operator).default, Info(backward, setup_context))

    def kernel(keyset: DispatchKeySet, *arguments: Any) -> Any:
        if transforms.carries_tangent(*(a for a in arguments if isinstance(a, Tensor))):
            raise NotImplementedError(
                f"torch.ops.segdcn.{operator} has no forward-mode derivative (jvp, jacfwd, dual numbers); "
                f"segdcn.ops.{operator.removesuffix('_backward')} has one"
            )
        return registered(keyset, *arguments)

    return kernel


def register(
    name: str,
    fakes: tuple[Callable, Callable],
    gradients: tuple[Callable, Callable],
    seconds: tuple[Callable, Callable],
    casted: tuple[int, ...],
) -> None:
    """Tell torch about an operator and its backward.

    Args:
        name: The operator; its backward is `<name>_backward`.
        fakes: Shapes without data, of both.
        gradients: The operator's derivative, and what saves for it.
        seconds: The backward's, likewise.
        casted: Which arguments autocast casts, the input first.
    """
    if _library is None:
        return
    for operator, fake, (backward, setup_context) in (
        (name, fakes[0], gradients),
        (f"{name}_backward", fakes[1], seconds),
    ):
        torch.library.register_fake(f"segdcn::{operator}", fake)
        try:
            kernel = _autograd_kernel(operator, backward, setup_context)
        except (ImportError, TypeError):  # another torch's insides: tangents of the raw operators are not refused
            torch.library.register_autograd(f"segdcn::{operator}", backward, setup_context=setup_context)
        else:
            _library.impl(operator, kernel, "Autograd", with_keyset=True)
    _library.impl(name, autocast.kernel(name, "cpu", casted), "AutocastCPU")
    _library.impl(name, autocast.kernel(name, "cuda", casted), "AutocastCUDA")


for _name in ("deform_conv2d", "deform_conv3d"):
    register(
        _name,
        (_fake_forward, _fake_backward),
        (first_gradients, _save_for_backward),
        (gradients_of_gradients, _save_for_second_backward),
        casted=(0, 1, 4),  # input, weight and bias
    )
