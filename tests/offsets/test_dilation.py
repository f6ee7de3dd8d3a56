import math

import numpy as np
import pytest
import torch
from torch import nn

from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.offsets import EffectiveDilation, effective_dilation, record


def fields_of(*layers: DeformableConv2d, size: int = 16):
    network = nn.Sequential(*layers)
    return record(network, network, torch.zeros(1, 1, size, size))


def test_a_fresh_layer_has_its_dilation():
    (field,) = fields_of(DeformableConv2d(1, 1, 3, padding=(2, 3), dilation=(2, 3)))
    assert torch.allclose(effective_dilation(field), torch.full((1, 16, 16), 2.5))
    (field,) = fields_of(DeformableConv2d(1, 1, (1, 2), dilation=4, offset_groups=1))
    assert torch.allclose(effective_dilation(field), torch.full((1, 16, 12), 4.0))


def test_moving_all_taps_together_changes_nothing_and_one_tap_its_pairs():
    """The middle tap moves by (3, 4): the distances to its four neighbours become those of the triangles."""
    layer = DeformableConv2d(1, 1, 3, padding=1)
    layer.offset_conv.bias.data[:18] = 7.0
    (field,) = fields_of(layer)
    assert torch.allclose(effective_dilation(field), torch.ones(1, 16, 16))
    layer.offset_conv.bias.data[8:10] += torch.tensor([3.0, 4.0])
    (field,) = fields_of(layer)
    moved = math.hypot(4, 4) + math.hypot(2, 4) + math.hypot(3, 5) + math.hypot(3, 3)
    assert torch.allclose(effective_dilation(field), torch.full((1, 16, 16), (8 + moved) / 12))


def test_offset_groups_have_their_own():
    layer = DeformableConv2d(2, 1, 3, padding=1, offset_groups=2)
    layer.offset_conv.bias.data[18 + 8] = 1.0
    network = nn.Sequential(layer)
    (field,) = record(network, network, torch.zeros(1, 2, 8, 8))
    values = effective_dilation(field)
    assert values.shape == (2, 8, 8) and torch.allclose(values[0], torch.ones(8, 8)) and values[1].min() > 1


@pytest.fixture
def collected() -> EffectiveDilation:
    """One layer whose dilation is 1 in rows 0-7 and 3 in rows 8-15; objects of class 1 above, 2 below."""
    (field,) = fields_of(DeformableConv2d(1, 1, 3, padding=1))
    field.offset[:, :, :, 8:] = 2 * (field.positions - field.positions[:, 4:5])[:, :, :, 8:]
    labels = np.zeros((16, 16), np.uint8)
    labels[1:6, 1:6], labels[9:15, 2:14] = 1, 2
    instances = (labels > 0).astype(np.uint8)
    instances[labels == 2] = 2
    found = EffectiveDilation(sizes=(30, 70))
    found.add([field], labels)
    found.add([field], labels, instances)
    return found


def test_values_are_sorted_by_size_and_by_class(collected):
    by_size = {name: values[:, 0].tolist() for name, values in collected.by_size().items()}
    assert by_size["small"] == pytest.approx([1, 1]) and by_size["medium"] == []
    assert by_size["large"] == pytest.approx([3, 3]) and len(by_size["background"]) == 2
    by_class = collected.by_class(["none", "one", "two", "three"])
    assert by_class["two"][:, 0].tolist() == pytest.approx([3, 3]) and by_class["three"].shape == (0, 1)


def test_rows_can_travel_between_processes(collected):
    assert all(type(value) in (int, bool, list) for row in collected.rows for value in row)
    assert len(collected.rows) == 6


def test_sizes_in_the_wrong_order_are_refused():
    with pytest.raises(UserValueError, match=r"sizes is \[9, 4\]"):
        EffectiveDilation(sizes=(9, 4))
