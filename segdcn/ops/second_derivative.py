"""The derivative of the convolutions' backward, from the operator's definition in plain torch.

Second derivatives serve gradient penalties, Hessians and sharpness measures, where being right
matters more than being fast: autograd of the definition gives them, of any order, a few rows of
output pixels, in three dimensions a few planes, at a time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vjp

from segdcn.ops import autocast, reference, transforms

# Elements of the columns (C * K * pixels) that are differentiated at a time. Autograd of the
# definition holds about 70 tensors of that size: 75 MiB in float32.
CHUNK_ELEMENTS = 1 << 18


def second_gradients(
    grads: Sequence[Tensor | None],
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs: Sequence[bool] = (True,) * 5,
) -> tuple[Tensor | None, ...]:
    """Differentiate sum(grads * backward(grad_output, input, weight, offset, mask)).

    Memory beyond arguments and results does not grow with the batch. In float32 it is about
    75 MiB (more where one row of output pixels, or one plane, has more than CHUNK_ELEMENTS columns) and a
    dozen copies of one image and of the weight. Where the second derivative is itself to be
    differentiated (create_graph, torch.func), what that needs of every image is kept.

    Args:
        grads: What arrives for the gradients of input, weight, offset and mask; None or an
            empty tensor counts as zeros.
        grad_output: Gradient of the result, (B, O, (Do,) Ho, Wo).
        input: As in deform_conv2d, and so on.
        weight: As in deform_conv2d.
        offset: As in deform_conv2d.
        mask: As in deform_conv2d.
        stride: As in deform_conv2d, one for each dimension.
        padding: As in deform_conv2d, one for each dimension.
        dilation: As in deform_conv2d, one for each dimension.
        needs: Which of the five gradients to return.

    Returns:
        The gradients of grad_output, input, weight, offset and mask; None where not needed.
    """
    exact = torch.float64 if input.dtype == torch.float64 else torch.float32
    w = weight.to(exact)
    weight_tangent = _given(grads[1], w, slice(None))
    per_row = input.shape[1] * math.prod(weight.shape[2:]) * math.prod(offset.shape[3:])
    rows = max(1, CHUNK_ELEMENTS // per_row)

    weight_result = torch.zeros_like(w)
    present = [t for t in (*grads, grad_output, input, weight, offset, mask) if t is not None]
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in present)
    at_once = not differentiable and not transforms.transforms_active()
    # Of what has a batch: grad_output, input, offset, mask.
    batched = zip((grad_output, input, offset, mask), (*needs[:2], *needs[3:]), strict=True)
    results = [None if t is None or not need else _Result(t, at_once) for t, need in batched]
    for i in range(input.shape[0]):
        image = slice(i, i + 1)
        go, x, o = (t[image].to(exact) for t in (grad_output, input, offset))
        # Without a mask, one of ones, whose gradient nobody asks for.
        m = torch.ones_like(o[:, :: len(stride)]) if mask is None else mask[image].to(exact)
        tangents = [_given(g, t, image) for g, t in ((grads[0], x), (grads[2], o), (grads[3], m))]
        input_result = torch.zeros_like(x)
        parts: list[tuple[Tensor, ...]] = []
        for top in range(0, offset.shape[2], rows):
            chunk = (slice(None), slice(None), slice(top, top + rows))
            # Rows further down start further down in the input: a smaller padding, also below 0.
            pads = [padding[0] - top * stride[0], *padding[1:]]
            of_chunk = _second_vjp(
                (tangents[0], weight_tangent, tangents[1][chunk], tangents[2][chunk]),
                (go[chunk], x, w, o[chunk], m[chunk]),
                (stride, pads, dilation),
            )
            input_result, weight_result = input_result + of_chunk[1], weight_result + of_chunk[2]
            parts.append((of_chunk[0], of_chunk[3], of_chunk[4]))
        of_go, of_o, of_m = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        for result, of_image in zip(results, (of_go, input_result, of_o, of_m), strict=True):
            if result is not None:
                result.put(image, of_image)

    go_result, image_result, *field_results = (None if result is None else result.whole() for result in results)
    return go_result, image_result, weight_result.to(weight.dtype) if needs[2] else None, *field_results


def _given(grad: Tensor | None, like: Tensor, image: slice) -> Tensor:
    """Return one image of what arrived for a gradient, zeros where nothing did."""
    if grad is None or grad.numel() == 0:
        return torch.zeros_like(like)
    return grad[image].to(like.dtype)


class _Result:
    """One gradient of the whole batch, from its images: written to their place at once, or joined in the end."""

    def __init__(self, like: Tensor, at_once: bool) -> None:
        self.like = like
        self.batch = torch.empty_like(like) if at_once else None
        self.images: list[Tensor] = []

    def put(self, image: slice, values: Tensor) -> None:
        if self.batch is not None:
            self.batch[image] = values
        else:
            self.images.append(values.to(self.like.dtype))

    def whole(self) -> Tensor:
        if self.batch is not None:
            return self.batch
        return torch.cat(self.images or [self.like])  # an empty batch: nothing, of the right shape


def _second_vjp(
    grads: tuple[Tensor, ...], arguments: tuple[Tensor, ...], settings: tuple[list[int], ...]
) -> tuple[Tensor, ...]:
    """Differentiate the backward of the definition for some rows of one image."""
    stride, padding, dilation = settings

    def forward(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return reference.deform_conv(input, offset, weight, None, stride, padding, dilation, mask)

    def backward(grad_output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return vjp(forward, *leaves)[1](grad_output)

    with autocast.off(arguments[0].device):
        return vjp(backward, *arguments)[1](grads)
