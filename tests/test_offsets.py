import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets import record, trace


def constant_layer(dy: float, dx: float, **settings) -> DeformableConv2d:
    """A layer whose every tap is moved by (dy, dx)."""
    layer = DeformableConv2d(2, 2, 3, **settings)
    layer.offset_conv.bias.data[0:18:2] = dy
    layer.offset_conv.bias.data[1:18:2] = dx
    return layer


def recorded(network: nn.Module, image: torch.Tensor):
    return record(network, network, image)


def test_positions_of_one_layer_by_hand():
    """Stride 2, padding 2, dilation 2: tap (i, j) of output (3, 4) reads 3*2-2+2i+0.5, 4*2-2+2j-1."""
    layer = constant_layer(0.5, -1.0, stride=2, padding=2, dilation=2)
    (field,) = recorded(nn.Sequential(layer), torch.zeros(1, 2, 16, 20))
    assert field.positions.shape == (1, 9, 2, 8, 10)
    for i in range(3):
        for j in range(3):
            assert field.positions[0, 3 * i + j, :, 3, 4].tolist() == [4.5 + 2 * i, 5.0 + 2 * j]
    assert torch.equal(field.modulation, torch.ones(1, 9, 8, 10))


def test_two_layers_read_81_points_where_arithmetic_says():
    """Each layer moves its taps by one whole pixel down; the second starts where the first ends."""
    network = nn.Sequential(
        nn.AvgPool2d(4), constant_layer(1, 0, padding=1), nn.ReLU(), constant_layer(1, 0, padding=1)
    )
    fields = recorded(network, torch.zeros(1, 2, 64, 64))
    points = trace(fields, (32.0, 32.0), (64, 64))
    assert len(points.y) == 81
    # From map pixel (8, 8): rows 8 + 1 + 1 and two steps of -1..1, four image pixels each.
    rows = sorted({(8 + 2 + a + b) * 4.0 for a in (-1, 0, 1) for b in (-1, 0, 1)})
    assert sorted(set(points.y.tolist())) == rows
    assert sorted(set(points.x.tolist())) == [(8 + d) * 4.0 for d in range(-2, 3)]
    assert sorted(set(points.tap.tolist())) == list(range(9))
    assert torch.equal(points.weight, torch.ones(81))


def test_points_that_left_the_map_are_not_followed_further():
    network = nn.Sequential(constant_layer(0, 0, padding=1), constant_layer(-100, 0, padding=1))
    fields = recorded(network, torch.zeros(1, 2, 8, 8))
    assert len(trace(fields, (4.0, 4.0), (8, 8)).y) == 0
    assert len(trace(fields[1:], (4.0, 4.0), (8, 8)).y) == 9


def test_recording_leaves_no_hooks_behind():
    layer = constant_layer(0, 0)
    recorded(nn.Sequential(layer), torch.zeros(1, 2, 8, 8))
    assert not layer._forward_pre_hooks
