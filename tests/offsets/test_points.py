"""Where deformable layers read: checked by hand, and against what autograd says an output depends on."""

import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets import output_pixel, record, trace


def constant_layer(dy: float, dx: float, channels: int = 2, **settings) -> DeformableConv2d:
    """A layer whose every tap is moved by (dy, dx)."""
    layer = DeformableConv2d(channels, channels, 3, **settings)
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


def test_halfway_between_two_output_pixels_the_later_is_taken():
    """Pixel q of an 8x8 map of stride 2 is centred at 2q: 1 lies between 0 and 1, 3 between 1 and 2."""
    (field,) = recorded(nn.Sequential(constant_layer(0, 0, padding=1, stride=2)), torch.zeros(1, 2, 16, 16))
    assert [output_pixel(field, place) for place in [(1.0, 3.0), (5.0, 0.99)]] == [(1, 2), (3, 0)]


def test_every_point_of_three_layers_by_hand():
    """Stride 4 in front (a 5x5 kernel that starts at -1.5 - ...), then three layers with offsets of their own.

    The convolution has padding 0: map pixel q is centred at 4q + 2. Of the three layers the first has
    dilation 1 and offset (0.25, 0), the second dilation 2 and (0, -0.5), the third dilation 1 and
    (1, 1.5). Map pixel (6, 7) therefore reads, for taps a, b, c of the third, second and first layer,
    row 6 + (a + 1) + 2b + (c + 0.25) and so on.
    """
    network = nn.Sequential(
        nn.Conv2d(2, 2, 5, stride=4),
        constant_layer(0.25, 0, padding=1),
        nn.ReLU(),
        constant_layer(0, -0.5, padding=2, dilation=2),
        nn.Conv2d(2, 2, 1),
        constant_layer(1, 1.5, padding=1),
    )
    fields = recorded(network, torch.zeros(1, 2, 61, 61))
    assert [field.output_size for field in fields] == [(15, 15)] * 3
    place = (6 * 4 + 2 + 1.9, 7 * 4 + 2 - 1.9)  # nearest to pixel (6, 7)
    assert output_pixel(fields[-1], place) == (6, 7)
    taps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    for length in (1, 2, 3):
        points = trace(fields[3 - length :], place)
        expected = []
        for number, a in enumerate(taps):
            one = (6 + a[0] + 1, 7 + a[1] + 1.5)
            for b in taps if length > 1 else [None]:
                two = (one[0] + 2 * b[0], one[1] + 2 * b[1] - 0.5) if b else one
                for c in taps if length > 2 else [None]:
                    three = (two[0] + c[0] + 0.25, two[1] + c[1]) if c else two
                    expected.append((4 * three[0] + 2, 4 * three[1] + 2, number))
        assert len(points.y) == 9**length
        found = torch.stack([points.y, points.x, points.tap.float()], dim=1)
        assert torch.allclose(found, torch.tensor(expected), atol=1e-4)
        assert torch.equal(points.weight, torch.ones(9**length))


def test_between_pixels_the_earlier_layer_s_offset_is_interpolated():
    """The first layer's dy is the column, dx and modulation grow with the row; the second reads at +0.25, +0.5."""
    first = constant_layer(0, 0, padding=1)
    second = constant_layer(0.25, 0.5, padding=1)
    fields = recorded(nn.Sequential(first, second), torch.zeros(1, 2, 9, 9))
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    fields[0].offset[0, :, 0], fields[0].offset[0, :, 1] = 0.1 * columns, 0.2 * rows
    fields[0].modulation[0] = 1 + 0.05 * rows
    points = trace(fields, (4, 5))
    # Tap 0 of the second layer reads (3.25, 4.5); tap 8 of the first is at (+1, +1) from there.
    assert points.y[8] == pytest.approx(3.25 + 1 + 0.1 * 4.5)
    assert points.x[8] == pytest.approx(4.5 + 1 + 0.2 * 3.25)
    assert points.weight[8] == pytest.approx(1 + 0.05 * 3.25)


def test_a_stride_between_two_layers_scales_positions():
    """The first layer works on the image, the pooling halves; pixel q of its map is centred at 2q + 0.5."""
    network = nn.Sequential(constant_layer(0, 3, padding=1), nn.AvgPool2d(2), constant_layer(1, 0, padding=1))
    fields = recorded(network, torch.zeros(1, 2, 32, 32))
    points = trace(fields, (8.5, 8.5))
    assert points.y.reshape(9, 9)[4].tolist() == pytest.approx(
        [2 * 5 + 0.5 + d for d in (-1, -1, -1, 0, 0, 0, 1, 1, 1)]
    )
    assert points.x.reshape(9, 9)[4].tolist() == pytest.approx([8.5 + 3 + d for d in (-1, 0, 1)] * 3)


def test_the_points_are_the_pixels_that_autograd_finds():
    """The output pixel depends on exactly the four neighbours of each point.

    With weights of one, its gradient is the sum of the points' bilinear weights, pixel by pixel. Only
    the first layer reads between pixels: what the others read there would be four places, not one.
    """
    network = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False),
        constant_layer(0.25, -1.5, channels=1, padding=1, bias=False),
        nn.Conv2d(1, 1, 1, bias=False),
        constant_layer(-1, 2, channels=1, padding=2, dilation=2, stride=2, bias=False),
        constant_layer(2, -1, channels=1, padding=1, bias=False),
    )
    for layer in network:
        nn.init.ones_(layer.weight)
    image = torch.rand(1, 1, 40, 40, requires_grad=True)
    fields = recorded(network, image.detach())
    network(image)[0, 0, 10, 9].backward()
    points = trace(fields, (20, 18))
    assert len(points.y) == 729
    expected = torch.zeros(40, 40)
    for y, x in zip(points.y.tolist(), points.x.tolist(), strict=True):
        top, left = int(y // 1), int(x // 1)
        for row, down in ((top, 1 - y % 1), (top + 1, y % 1)):
            for column, along in ((left, 1 - x % 1), (left + 1, x % 1)):
                expected[row, column] += down * along
    assert torch.allclose(image.grad[0, 0], expected, atol=1e-4)


def test_interpolated_points_are_the_centres_of_what_autograd_finds():
    """Random offsets: where a layer is read between pixels, its four neighbours read at four places.

    Seen through one tap of the first layer alone, the gradient's centre of gravity is the mean of
    those places, weighted as the neighbours are: the interpolated point.
    """
    torch.manual_seed(0)
    first = DeformableConv2d(1, 1, 3, padding=1, bias=False, modulated=False)
    second = constant_layer(0.25, -0.5, channels=1, padding=1, bias=False, modulated=False)
    nn.init.normal_(first.offset_conv.weight, std=0.4)
    network = nn.Sequential(first, second)
    image = torch.rand(1, 1, 24, 24)
    (one, two), tap_of_first, tap_of_second = recorded(network, image), 2, 3
    points = trace([one, two], (11, 12))
    nn.init.zeros_(first.weight).data[0, 0, tap_of_first // 3, tap_of_first % 3] = 1
    nn.init.zeros_(second.weight).data[0, 0, tap_of_second // 3, tap_of_second % 3] = 1
    # The offsets stay as they are while the image's values vary.
    offsets = [field.offset.flatten(0, 2)[None] for field in (one, two)]
    read = image.clone().requires_grad_()
    result = read
    for layer, offset in zip(network, offsets, strict=True):
        result = layer._deformable_convolution(result, offset, layer.weight, None, [1, 1], [1, 1], [1, 1], None)
    result[0, 0, 11, 12].backward()
    gradient = read.grad[0, 0]
    assert gradient.sum() == pytest.approx(1, abs=1e-5)
    index = 9 * tap_of_second + tap_of_first
    assert points.tap[index] == tap_of_second
    assert (gradient.sum(1) * torch.arange(24)).sum() == pytest.approx(points.y[index].item(), abs=1e-4)
    assert (gradient.sum(0) * torch.arange(24)).sum() == pytest.approx(points.x[index].item(), abs=1e-4)


def test_points_that_left_the_map_are_not_followed_further():
    network = nn.Sequential(constant_layer(0, 0, padding=1), constant_layer(-100, 0, padding=1))
    fields = recorded(network, torch.zeros(1, 2, 8, 8))
    assert len(trace(fields, (4.0, 4.0)).y) == 0
    assert len(trace(fields[1:], (4.0, 4.0)).y) == 9


def test_at_the_edge_of_a_map_the_weight_shrinks_by_the_share_of_zeros():
    """The second layer's middle row reads at row -0.25, three quarters of which is row 0."""
    network = nn.Sequential(constant_layer(2, 0, padding=1), constant_layer(-0.25, 0, padding=1))
    points = trace(recorded(network, torch.zeros(1, 2, 8, 8)), (0, 4))
    middle = points.tap == 4
    assert points.weight[middle].tolist() == [0.75] * 9
    assert points.y[middle].tolist() == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert not (points.tap < 3).any()  # row -1.25 is outside


def test_recording_leaves_no_hooks_behind():
    layer = constant_layer(0, 0)
    recorded(nn.Sequential(layer), torch.zeros(1, 2, 8, 8))
    assert not layer._forward_pre_hooks
