import math

import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets import health, record


def fields_of(layer: DeformableConv2d):
    network = nn.Sequential(layer)
    return record(network, network, torch.zeros(1, 1, 12, 12))


def test_a_fresh_layer_rests_and_its_padding_is_outside():
    """Padding 1 on 12x12: of the 9 * 144 reads, 3 * 12 leave each side, 1 at each corner twice."""
    found = health(fields_of(DeformableConv2d(1, 1, 3, padding=1)))
    assert (found.mean, found.p95, found.saturated, found.finite) == (0, 0, 0, True)
    assert found.outside == pytest.approx((4 * 36 - 4) / (9 * 144))


def test_lengths_are_in_units_of_the_dilation():
    """Every tap moves by (4, 6) pixels at dilation (2, 3): by (2, 2) dilations. One of 9 moves ten times that."""
    layer = DeformableConv2d(1, 1, 3, padding=(2, 3), dilation=(2, 3))
    layer.offset_conv.bias.data[0:18:2], layer.offset_conv.bias.data[1:18:2] = 4.0, 6.0
    found = health(fields_of(layer))
    assert found.mean == pytest.approx(math.sqrt(8)) and found.p95 == pytest.approx(math.sqrt(8))
    layer.offset_conv.bias.data[0:2] *= 10
    found = health(fields_of(layer) * 2)
    assert found.mean == pytest.approx(math.sqrt(8) * 2) and found.p95 == pytest.approx(10 * math.sqrt(8))


def test_everything_outside_and_saturated_is_seen():
    layer = DeformableConv2d(1, 1, 3, padding=1)
    layer.offset_conv.bias.data[:18] = -50.0
    layer.offset_conv.bias.data[18:] = torch.tensor([9.0] * 3 + [-9.0] * 3 + [0.0] * 3)
    found = health(fields_of(layer))
    assert found.outside == 1 and found.saturated == pytest.approx(2 / 3)
    assert health(fields_of(DeformableConv2d(1, 1, 3, padding=1, modulated=False))).saturated is None


@pytest.mark.parametrize("channel", [3, 20])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_seen(channel, value):
    layer = DeformableConv2d(1, 1, 3, padding=1)
    layer.offset_conv.bias.data[channel] = value
    found = health(fields_of(layer))
    # A modulation logit of infinity is a modulation of 2, which is finite.
    assert found.finite == (channel == 20 and value == math.inf)
