"""What torch has to know about the RoI poolings: gradients, shapes without data, autocast."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.func import vjp

from segdcn.ops import autocast, roi_reference, transforms
from segdcn.ops.registration import empty_image, register

# Elements that the definition reads (channels * bins * samples * regions) that are differentiated at a time for
# second derivatives.
CHUNK_ELEMENTS = 1 << 18

Definition = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def needs_definition(input: Tensor, offset: Tensor | None) -> bool:
    """Whether a call is differentiated in a way that only plain torch can be: forward mode, torch.func."""
    if transforms.forward_mode_active(input, offset):
        return True
    return transforms.transforms_active() and not torch.compiler.is_compiling()


def by_definition(name: str, input: Tensor, rois: Tensor, offset: Tensor | None, settings: tuple) -> Tensor:
    """Compute an operator in plain torch, with the dtypes that the compiled one has.

    Raises:
        NotImplementedError: torch.vmap maps over regions that shall choose their own number of samples.
    """
    if name == "deform_roi_pool" and settings[2] == 0 and is_batchedtensor(rois):
        raise NotImplementedError(
            "torch.vmap over rois needs the same number of samples for each region; give a sampling_ratio above 0"
        )
    if autocast.enabled(input.device):
        (input,) = autocast.cast(input.device.type, input)
    exact = torch.float64 if input.dtype == torch.float64 else torch.float32
    definition, _ = DEFINITIONS[name](settings)
    moved = None if offset is None else offset.to(exact)
    return definition(input.to(exact), rois.detach().to(exact), moved).to(input.dtype)


# ---------------------------------------------------------------- the two operators


def _aligned_depth(input: Tensor, settings: tuple) -> tuple:
    return input.shape[1], settings[0]


def _aligned_definition(settings: tuple) -> tuple[Definition, int]:
    """Return the definition with these settings, and how many samples a bin has (a guess where it depends)."""
    size, scale, samples, gamma, _ = settings

    def definition(input: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        return roi_reference.deform_roi_pool(input, rois, offset, (size[0], size[1]), scale, samples, gamma)

    return definition, (samples or 4) ** 2


def _position_sensitive_depth(input: Tensor, settings: tuple) -> tuple:
    return settings[0], settings[2]


def _position_sensitive_definition(settings: tuple) -> tuple[Definition, int]:
    output_dim, group_size, size, parts, samples, trans_std, scale, _ = settings

    def definition(input: Tensor, rois: Tensor, offset: Tensor | None) -> Tensor:
        return roi_reference.deform_psroi_pool(
            input,
            rois,
            offset,
            output_dim=output_dim,
            group_size=group_size,
            output_size=(size[0], size[1]),
            part_size=(parts[0], parts[1]),
            samples_per_part=samples,
            trans_std=trans_std,
            spatial_scale=scale,
        )

    return definition, samples**2


DEFINITIONS = {"deform_roi_pool": _aligned_definition, "deform_psroi_pool": _position_sensitive_definition}


# ---------------------------------------------------------------- shapes


def _fake_forward(depth: Callable[[Tensor, tuple], tuple]) -> Callable[..., Tensor]:
    def fake(input: Tensor, rois: Tensor, offset: Tensor | None, *settings: Any) -> Tensor:
        channels, size = depth(input, settings)
        return empty_image(input, [rois.shape[0], channels, *size], settings[-1])

    return fake


def _fake_backward(
    grad_output: Tensor, input: Tensor, rois: Tensor, offset: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor]:
    *_, channels_last, need_input, need_offset, _ = settings
    grad_input = empty_image(input, list(input.shape), channels_last) if need_input else input.new_empty(0)
    moved = need_offset and offset is not None
    return grad_input, offset.new_empty(offset.shape) if moved and offset is not None else input.new_empty(0)


# ---------------------------------------------------------------- gradients


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    *tensors, ctx.settings = _split(inputs)
    ctx.save_for_backward(*tensors)


def _split(inputs: tuple) -> list:
    """Tensors, which come first, and then the settings as one."""
    count = next(i for i, value in enumerate(inputs) if not (value is None or isinstance(value, Tensor)))
    return [*inputs[:count], tuple(inputs[count:])]


def _first_gradients(name: str) -> Callable[..., tuple]:
    def gradients(ctx: Any, grad_output: Tensor) -> tuple:
        input, rois, offset = ctx.saved_tensors
        need_input, _, need_offset = ctx.needs_input_grad[:3]
        grad_input = grad_offset = None
        if need_input or need_offset:
            backward = getattr(torch.ops.segdcn, f"{name}_backward")
            deterministic = torch.are_deterministic_algorithms_enabled()
            grad_input, grad_offset = backward(
                grad_output, input, rois, offset, *ctx.settings, need_input, need_offset, deterministic
            )
        results = (grad_input if need_input else None, None, grad_offset if need_offset else None)
        return (*results, *[None] * len(ctx.settings))

    return gradients


def _second_gradients(of: Callable[[tuple], tuple[Definition, int]]) -> Callable[..., tuple]:
    def gradients(ctx: Any, *grads: Tensor | None) -> tuple:
        definition, samples = of(ctx.settings[:-3])
        grad_output, input, rois, offset = ctx.saved_tensors
        results = _second_vjp(definition, samples, grads, grad_output, input, rois, offset)
        return (*results[:2], None, results[2], *[None] * len(ctx.settings))

    return gradients


def _second_vjp(
    definition: Definition,
    samples: int,
    grads: tuple[Tensor | None, ...],
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Differentiate sum(grads * backward(grad_output, input, offset)), a few regions at a time."""
    exact = torch.float64 if input.dtype == torch.float64 else torch.float32
    # Without an offset, one of zeros for each region, which nobody asks for.
    leaves = [grad_output.to(exact), input.to(exact)] + ([] if offset is None else [offset.to(exact)])
    tangents = [
        torch.zeros_like(leaf) if g is None or g.numel() == 0 else g.to(exact)
        for g, leaf in zip(grads, leaves[1:], strict=False)
    ]
    step = max(1, CHUNK_ELEMENTS // max(1, samples * grad_output[:1].numel()))
    of_input = torch.zeros_like(leaves[1])
    of_regions: list[list[Tensor]] = [[] for _ in leaves]
    for first in range(0, len(rois), step):
        part = slice(first, first + step)

        def forward(input: Tensor, *moved: Tensor, part: slice = part) -> Tensor:
            return definition(input, rois[part].to(exact), moved[0] if moved else None)

        def backward(grad: Tensor, *inputs: Tensor, forward: Callable[..., Tensor] = forward) -> tuple[Tensor, ...]:
            return vjp(forward, *inputs)[1](grad)

        arguments = (leaves[0][part], leaves[1], *(leaf[part] for leaf in leaves[2:]))
        found = vjp(backward, *arguments)[1]((tangents[0], *(t[part] for t in tangents[1:])))
        of_input = of_input + found[1]
        for kept, value in zip(of_regions, found, strict=True):
            kept.append(value)
    of_output, *_, of_offset = [
        torch.cat(kept) if kept and i != 1 else torch.zeros_like(leaf)
        for i, (kept, leaf) in enumerate(zip(of_regions, leaves, strict=True))
    ]
    return (
        of_output.to(grad_output.dtype),
        of_input.to(input.dtype),
        None if offset is None else of_offset.to(offset.dtype),
    )


for _name, _depth in (("deform_roi_pool", _aligned_depth), ("deform_psroi_pool", _position_sensitive_depth)):
    register(
        _name,
        (_fake_forward(_depth), _fake_backward),
        (_first_gradients(_name), _save),
        (_second_gradients(DEFINITIONS[_name]), _save),
        casted=(0,),  # the input; in bfloat16 a corner of a region at 300 pixels would be off by up to one
    )
