"""Operations counted by hand, and beside those of the plain convolution."""

import torch
from torch.utils.flop_counter import FlopCounterMode

import segdcn.ops.flops  # noqa: F401
from segdcn.ops import deform_conv2d, deform_conv3d

# B=2, C=4, O=6, 3x2 taps, stride 2: 7x9 becomes 3x4, so 24 pixels read 24 * 6 * 4 values.
PRODUCT, VALUES = 2 * 24 * 6 * 2 * 6, 24 * 6 * 4


def arguments(requires_grad=False):
    image, weight = torch.randn(2, 4, 7, 9), torch.randn(6, 2, 3, 2)  # two groups
    offset, mask = torch.randn(2, 2 * 6, 3, 4), torch.rand(2, 6, 3, 4)
    return [leaf.requires_grad_(requires_grad) for leaf in (image, offset, weight, mask)]


def count(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_reading_takes_seven_operations_more_than_the_plain_convolution():
    image, offset, weight, mask = arguments()
    with torch.no_grad():
        plain = count(lambda: torch.nn.functional.conv2d(image, weight, stride=2, groups=2))
        assert plain == PRODUCT
        assert count(lambda: deform_conv2d(image, offset, weight, stride=2, mask=mask)) == PRODUCT + 7 * VALUES
        assert count(lambda: deform_conv2d(image, offset, weight, stride=2)) == PRODUCT + 7 * VALUES


def test_three_dimensions_have_eight_corners():
    image, weight = torch.randn(1, 2, 3, 4, 5), torch.randn(3, 2, 1, 2, 2)
    offset = torch.randn(1, 3 * 4, 3, 3, 4)
    with torch.no_grad():
        product, values = 2 * 36 * 3 * 2 * 4, 36 * 4 * 2
        assert count(lambda: deform_conv3d(image, offset, weight)) == product + 15 * values


def test_a_backward_takes_the_product_twice():
    image, offset, weight, mask = arguments(requires_grad=True)
    output = deform_conv2d(image, offset, weight, stride=2, mask=mask)
    everything = count(lambda: torch.autograd.grad(output.sum(), [image, offset, weight, mask], retain_graph=True))
    assert everything == 2 * PRODUCT + (7 + 8 + 2 * 7) * VALUES


def test_a_backward_counts_what_is_needed():
    image, offset, weight, mask = arguments()
    output = deform_conv2d(image, offset, weight.requires_grad_(), stride=2, mask=mask)
    assert count(lambda: torch.autograd.grad(output.sum(), [weight])) == PRODUCT + 7 * VALUES
