"""How many floating-point operations the deformable convolutions take; importing it tells torch.

    import segdcn.ops.flops
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        network(image)
    counter.get_total_flops()

Without it, torch's counter passes over them. A multiplication and an addition are two operations,
as for torch's own convolutions, whose FLOPs are twice the multiply-accumulates that some papers count.

1. The product with the weight, as in the plain convolution: 2 * B * P * O * C/groups * K.
2. Every value read between pixels (B * P * K * C of them): 4 products and 3 sums, or 8 and 7 in three
   dimensions. The modulation is part of the 4 weights.

What is computed once per position for all channels (the position, its weights) is not counted; the
convolution that predicts offsets is an operator of its own.

The backward takes the product once for the gradient of what was read and once for the weight's. Values are
read again for the weight's gradient, spread over their corners (4 products, 4 sums) for the input's, and summed
with other weights, once per dimension, for the offset's.
"""

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from segdcn.ops import library


def forward_flops(
    input: list[int], weight: list[int], offset: list[int], *rest: Any, out_shape: Any = None, **options: Any
) -> int:
    """Count a forward, from the shapes of its arguments."""
    product, values, reading = _parts(input, weight, offset)
    return product + values * reading


def backward_flops(
    grad_output: list[int],
    input: list[int],
    weight: list[int],
    offset: list[int],
    *rest: Any,
    out_shape: Any = None,
    **options: Any,
) -> int:
    """Count a backward, from the shapes of its arguments and which gradients are needed."""
    product, values, reading = _parts(input, weight, offset)
    need_input, need_weight, need_offset, _ = rest[-4:]
    dims = len(input) - 2
    products = product * (bool(need_input or need_offset) + bool(need_weight))
    per_value = reading * bool(need_weight) + 2 ** (dims + 1) * bool(need_input) + dims * reading * bool(need_offset)
    return products + values * per_value


def _parts(input: list[int], weight: list[int], offset: list[int]) -> tuple[int, int, int]:
    """Give the operations of the product, how many values are read, and the operations of reading one."""
    pixels, taps = prod(offset[2:]), prod(weight[2:])
    values = input[0] * pixels * taps * input[1]
    return 2 * input[0] * pixels * prod(weight), values, 2 * 2 ** (len(input) - 2) - 1


if library.cpu_problem is None:
    for _name in ("deform_conv2d", "deform_conv3d"):
        register_flop_formula(getattr(torch.ops.segdcn, _name))(forward_flops)
        register_flop_formula(getattr(torch.ops.segdcn, f"{_name}_backward"))(backward_flops)
