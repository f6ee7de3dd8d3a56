"""Deformable layers in standard operators: the same numbers as the definition."""

from dataclasses import replace

import pytest
import torch
from geometry import AWKWARD, AWKWARD3D, random_tensors
from torch import nn

from segdcn.export.portable import deform_conv, portable
from segdcn.layers import DeformableConv2d, DeformableConv3d
from segdcn.ops import reference

CASES = {
    "awkward": AWKWARD,
    "version 1": replace(AWKWARD, masked=False, biased=False),
    "a map of one pixel": replace(AWKWARD, height=1, width=1, padding=(2, 1), kernel=(3, 3), dilation=(1, 1)),
    "a wide map": replace(AWKWARD, height=3, width=130, kernel=(1, 3)),
    "a volume": AWKWARD3D,
    "no image": replace(AWKWARD, batch=0),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_definition(name):
    case = CASES[name]
    tensors = random_tensors(case, dtype=torch.float64)
    arguments = (tensors.input, tensors.offset, tensors.weight, tensors.bias)
    settings = (case.stride, case.padding, case.dilation, tensors.mask)
    found, expected = deform_conv(*arguments, *settings), reference.deform_conv(*arguments, *settings)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_border_is_zero_from_minus_one_and_from_the_size_on():
    """A map of ones 4x5, one tap of weight 1, moved by the offset alone: the values can be counted."""
    y = torch.tensor([0.0, -0.25, -1.0, -1.5, 3.5, 4.0, 0.0, float("nan"), float("inf"), -1e30])
    x = torch.tensor([0.0, 0.00, 0.0, 0.0, 4.75, 0.0, -0.5, 0.0, 0.0, 2.0])
    expected = torch.tensor([1.0, 0.75, 0.0, 0.0, 0.5 * 0.25, 0.0, 0.5, 0.0, 0.0, 0.0])
    for index in range(len(y)):
        offset = torch.stack([y[index], x[index]]).view(1, 2, 1, 1).expand(1, 2, 4, 5).clone()
        found = deform_conv(torch.ones(1, 1, 4, 5), offset, torch.ones(1, 1, 1, 1), None, (1, 1), (0, 0), (1, 1), None)
        torch.testing.assert_close(found[0, 0, 0, 0], expected[index])


@pytest.mark.parametrize("dims", [2, 3])
def test_layers_are_replaced_on_a_copy_and_keep_their_names(dims):
    torch.manual_seed(0)
    kind = DeformableConv2d if dims == 2 else DeformableConv3d
    network = nn.Sequential(kind(4, 4, 3, padding=1), nn.ReLU(), nn.Sequential(kind(4, 6, 3, modulated=False)))
    for name, parameter in network.named_parameters():
        if "offset_conv" in name:
            nn.init.normal_(parameter, std=0.2)
    copied = portable(network.eval())
    assert [type(network[0]), type(network[2][0])] == [kind, kind]
    assert copied.state_dict().keys() == network.state_dict().keys()
    assert not copied[0].training
    image = torch.randn(2, 4, *[6, 7, 5][:dims])
    with torch.no_grad():
        torch.testing.assert_close(copied(image), network(image), rtol=0, atol=1e-5)
        copied[0].weight.zero_()
        assert network[0].weight.abs().max() > 0


def test_the_network_itself_may_be_such_a_layer():
    layer = DeformableConv2d(2, 2, 3)
    assert type(portable(layer)) is not DeformableConv2d
