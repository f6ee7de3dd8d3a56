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

from segdcn.ops import reference

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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Differentiate sum(grads * backward(grad_output, input, weight, offset, mask)).

    Memory beyond arguments and results does not grow with the batch. In float32 it is about
    75 MiB (more where one row of output pixels, or one plane, has more than CHUNK_ELEMENTS columns) and a dozen
    copies of one image and of the weight.

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

    Returns:
        The gradients of grad_output, input, weight, offset and mask.
    """
    exact = torch.float64 if input.dtype == torch.float64 else torch.float32
    # Without a mask, one of ones, whose gradient nobody asks for.
    ones = torch.ones_like(offset[:, :: len(stride)]) if mask is None else mask
    go, x, w, o, m = (t.to(exact) for t in (grad_output, input, weight, offset, ones))
    tangents = [
        torch.zeros_like(t) if g is None or g.numel() == 0 else g.to(exact)
        for g, t in zip(grads, (x, w, o, m), strict=True)
    ]
    per_row = x.shape[1] * math.prod(weight.shape[2:]) * math.prod(offset.shape[3:])
    rows = max(1, CHUNK_ELEMENTS // per_row)

    of_weight = torch.zeros_like(w)
    of_images: list[Tensor] = []
    of_fields: list[tuple[Tensor, ...]] = []  # per image: of grad_output, offset, mask
    for i in range(x.shape[0]):
        image = slice(i, i + 1)
        of_image = torch.zeros_like(x[image])
        parts: list[tuple[Tensor, ...]] = []
        for top in range(0, offset.shape[2], rows):
            chunk = (image, slice(None), slice(top, top + rows))
            # Rows further down start further down in the input: a smaller padding, also below 0.
            pads = [padding[0] - top * stride[0], *padding[1:]]
            of_chunk = _second_vjp(
                (tangents[0][image], tangents[1], tangents[2][chunk], tangents[3][chunk]),
                (go[chunk], x[image], w, o[chunk], m[chunk]),
                (stride, pads, dilation),
            )
            of_image, of_weight = of_image + of_chunk[1], of_weight + of_chunk[2]
            parts.append((of_chunk[0], of_chunk[3], of_chunk[4]))
        of_images.append(of_image)
        of_fields.append(tuple(torch.cat(part, dim=2) for part in zip(*parts, strict=True)))

    if not of_images:
        of_images, of_fields = [x], [(go, o, m)]  # an empty batch: nothing of the right shapes
    of_go, of_o, of_m = (torch.cat(part) for part in zip(*of_fields, strict=True))
    return (
        of_go.to(grad_output.dtype),
        torch.cat(of_images).to(input.dtype),
        of_weight.to(weight.dtype),
        of_o.to(offset.dtype),
        None if mask is None else of_m.to(mask.dtype),
    )


def _second_vjp(
    grads: tuple[Tensor, ...], arguments: tuple[Tensor, ...], settings: tuple[list[int], ...]
) -> tuple[Tensor, ...]:
    """Differentiate the backward of the definition for some rows of one image."""
    stride, padding, dilation = settings

    def forward(input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return reference.deform_conv(input, offset, weight, None, stride, padding, dilation, mask)

    def backward(grad_output: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return vjp(forward, *leaves)[1](grad_output)

    return vjp(backward, *arguments)[1](grads)
