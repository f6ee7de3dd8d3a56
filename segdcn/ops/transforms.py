"""torch.func on the operators: vmap rules, and grad, vjp and jacrev.

What torch.library registers for autograd does not exist for torch.func (and jvp would silently
give zeros, were tangents not refused there), so under its transforms the operators go through the
autograd Functions here, and forward-mode derivatives through the definition in plain torch.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from segdcn.ops import library


@dataclass(frozen=True)
class Settings:
    """The integer arguments of the operators, as one thing that torch.func does not look into."""

    # One number for each dimension, so their length tells deform_conv2d from deform_conv3d.
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    offset_groups: int
    channels_last: bool
    allow_tf32: bool

    def values(self) -> list:
        """Return them in the operators' order."""
        return list(astuple(self))


def forward_operator(stride: list[int]) -> Callable[..., Tensor]:
    """Return the operator of as many dimensions as there are strides."""
    return torch.ops.segdcn.deform_conv2d if len(stride) == 2 else torch.ops.segdcn.deform_conv3d


def backward_operator(stride: list[int]) -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return its backward."""
    return torch.ops.segdcn.deform_conv2d_backward if len(stride) == 2 else torch.ops.segdcn.deform_conv3d_backward


def transforms_active() -> bool:
    """Whether torch.func's transforms are at work around this call."""
    return torch._C._are_functorch_transforms_active()


def forward_mode_active(*tensors: Tensor | None) -> bool:
    """Whether forward-mode derivatives (jvp, jacfwd, dual numbers) with respect to `tensors` may be asked for.

    Outside torch.func's transforms and torch.compile the answer is exact: the level is the whole
    process's, so that of another thread must not make the operator slow in this one.
    """
    if forward_ad._current_level < 0:
        return False
    if transforms_active() or torch.compiler.is_compiling():
        return True
    return carries_tangent(*tensors)


def carries_tangent(*tensors: Tensor | None) -> bool:
    """Whether one of the tensors is a dual number."""
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def forward(*arguments: Any) -> Tensor:
    """Call the operator, in the way that differentiates under torch.func where that is active."""
    if transforms_active():
        return _Forward.apply(*arguments[:5], Settings(*arguments[5:]))
    return forward_operator(arguments[5])(*arguments)


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Call the backward operator, likewise."""
    if transforms_active():
        *settings, need_input, need_weight, need_offset, deterministic = arguments[5:]
        needs = (need_input, need_weight, need_offset, deterministic)
        return _Backward.apply(*arguments[:5], Settings(*settings), needs)
    return backward_operator(arguments[5])(*arguments)


class _Forward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, settings: Settings
    ) -> Tensor:
        return forward_operator(settings.stride)(input, weight, offset, mask, bias, *settings.values())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        input, weight, offset, mask, _, settings = inputs
        ctx.settings = settings.values()
        ctx.save_for_backward(input, weight, offset, mask)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        from segdcn.ops.registration import first_gradients

        return (*first_gradients(ctx, grad_output)[:5], None)


class _Backward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        mask: Tensor | None,
        settings: Settings,
        needs: tuple[bool, bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        operator = backward_operator(settings.stride)
        return operator(grad_output, input, weight, offset, mask, *settings.values(), *needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        *tensors, settings, _ = inputs
        ctx.settings = settings.values()
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        from segdcn.ops.registration import gradients_of_gradients

        return (*gradients_of_gradients(ctx, *grads)[:5], None, None)


# ---------------------------------------------------------------- vmap


def _fold(info: Any, tensors: list, dims: list) -> list:
    """Make the mapped dimension part of the batch, in every tensor; (N, B, ...) -> (N*B, ...)."""
    folded = []
    for tensor, dim in zip(tensors, dims, strict=True):
        if tensor is not None:
            tensor = tensor.movedim(dim, 0) if dim is not None else tensor.expand(info.batch_size, *tensor.shape)
            tensor = tensor.flatten(0, 1)
        folded.append(tensor)
    return folded


def _one_by_one(operator: Callable, info: Any, in_dims: tuple, arguments: tuple) -> list:
    """Call the operator for every index of the mapped dimension."""

    def at(index: int) -> list:
        pairs = zip(arguments, in_dims, strict=True)
        return [a.select(dim, index) if isinstance(dim, int) else a for a, dim in pairs]

    return [operator(*at(i)) for i in range(info.batch_size)]


def _vmap_forward(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Tensor, int]:
    operator = forward_operator(arguments[5])
    if in_dims[1] is not None or in_dims[4] is not None:  # a weight or a bias each
        return torch.stack(_one_by_one(operator, info, in_dims, arguments)), 0
    input, weight, offset, mask, bias, *settings = arguments
    input, offset, mask = _fold(info, [input, offset, mask], [in_dims[0], in_dims[2], in_dims[3]])
    result = operator(input, weight, offset, mask, bias, *settings)
    return result.unflatten(0, (info.batch_size, -1)), 0


def _vmap_backward(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple, tuple]:
    *_, need_input, need_weight, need_offset, _ = arguments
    operator = backward_operator(arguments[5])
    if in_dims[2] is not None or need_weight:  # a weight, or its gradient, each
        each = _one_by_one(operator, info, in_dims, arguments)
        return tuple(map(torch.stack, zip(*each, strict=True))), (0, 0, 0, 0)
    grad_output, input, weight, offset, mask, *settings = arguments
    dims = [in_dims[0], in_dims[1], in_dims[3], in_dims[4]]
    grad_output, input, offset, mask = _fold(info, [grad_output, input, offset, mask], dims)
    results = operator(grad_output, input, weight, offset, mask, *settings)
    given = (need_input, False, need_offset, need_offset and mask is not None)  # the others come without elements
    unfolded = [
        r.unflatten(0, (info.batch_size, -1)) if there else r.expand(info.batch_size, 0)
        for r, there in zip(results, given, strict=True)
    ]
    return tuple(unfolded), (0, 0, 0, 0)


if library.cpu_problem is None:
    for _name in ("segdcn::deform_conv2d", "segdcn::deform_conv3d"):
        torch.library.register_vmap(_name, _vmap_forward)
        torch.library.register_vmap(f"{_name}_backward", _vmap_backward)
