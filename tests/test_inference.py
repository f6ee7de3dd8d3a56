"""Networks for which theory says what windows, scales and mirroring have to give."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdcn.errors import UserValueError
from segdcn.inference import Inference, window_starts


def image(height=40, width=56, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def pointwise():
    """Every pixel for itself, so that it does not matter what else a window shows."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))


class Seen:
    """A network that notes the sizes it was shown, and answers with the image's first channels."""

    def __init__(self):
        self.sizes = []

    def __call__(self, image):  # noqa: D102
        self.sizes.append(tuple(image.shape[2:]))
        return image[:, :2]


@pytest.mark.parametrize("window", [(16, 16), (24, 40), (64, 16), (64, 64)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.7])
@pytest.mark.parametrize("sums_on", ["device", "cpu"])
def test_windows_change_nothing_for_a_pointwise_network(pointwise, window, overlap, sums_on):
    """Also where the image is smaller than the window in one direction, or both."""
    found = Inference(window, overlap, sums_on=sums_on)(pointwise, image())
    torch.testing.assert_close(found, pointwise(image()), rtol=0, atol=1e-5)


def test_the_result_lies_where_it_was_asked_for(pointwise, device):
    settings = {"window": (16, 24), "scales": (1.0, 0.5), "flip": True}
    expected = Inference(**settings)(pointwise, image())
    pointwise.to(device)
    for sums_on in ("device", "cpu"):
        found = Inference(**settings, sums_on=sums_on)(pointwise, image().to(device))
        assert found.device.type == (device.type if sums_on == "device" else "cpu")
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_one_window_over_the_image_is_the_whole_image_bit_for_bit(pointwise):
    assert torch.equal(Inference((40, 56))(pointwise, image()), pointwise(image()))


def test_windows_agree_with_the_whole_image_where_no_window_edge_is_seen():
    """Two 3x3 convolutions see 2 pixels around; farther than that from all edges inside, nothing differs."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    whole, found = network(image(32, 72)), Inference((32, 32), overlap=0.25)(network, image(32, 72))
    starts = window_starts(72, 32, 0.25)
    assert starts == [0, 24, 40]
    edges = torch.tensor([edge for start in starts for edge in (start, start + 32) if 0 < edge < 72])
    far = (torch.arange(72)[:, None] + 0.5 - edges).abs().min(1).values > 2
    assert 40 < far.sum() < 72
    torch.testing.assert_close(found[..., far], whole[..., far], rtol=0, atol=1e-5)
    assert (found[..., ~far] - whole[..., ~far]).abs().max() > 1e-3


def test_the_blend_fades_from_one_window_to_the_next():
    """Windows that answer 0 and 1: along their overlap of 8 pixels the result rises evenly, without a seam."""
    answers = iter([0.0, 1.0])
    blend = Inference((8, 24), overlap=1 / 3)(lambda seen: torch.full_like(seen, next(answers)), image(8, 40, 1))
    expected = torch.cat([torch.zeros(16), (torch.arange(8) + 0.5) / 8, torch.ones(16)])
    torch.testing.assert_close(blend, expected.expand(1, 3, 8, 40))


@pytest.mark.parametrize("length,window,overlap", [(100, 40, 0.25), (101, 32, 1 / 3), (64, 64, 0.5), (500, 64, 0.9)])
def test_starts_cover_the_axis_with_at_least_the_overlap(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0 and starts[-1] == length - window
    shared = [window - (b - a) for a, b in zip(starts, starts[1:], strict=False)]
    assert all(overlap * window <= pixels < window for pixels in shared)


def test_what_the_network_sees_is_padded_to_what_it_takes():
    seen = Seen()
    found = Inference(scales=(1.0, 0.5), size_divisor=16)(seen, image(40, 56))
    assert seen.sizes == [(48, 64), (32, 32)] and found.shape == (2, 2, 40, 56)
    seen = Seen()
    found = Inference((32, 32), size_divisor=16)(seen, image(20, 40))
    assert seen.sizes == [(32, 32), (32, 32)]
    torch.testing.assert_close(found, image(20, 40)[:, :2])


def test_mirroring_changes_nothing_for_a_network_that_does_not_know_left_from_right(pointwise):
    """Its two views agree, and the logarithm of their mean softmax has that very softmax."""
    symmetric = nn.Conv2d(3, 4, 3, padding=1)
    symmetric.weight.data += symmetric.weight.data.flip(3)
    for network in (pointwise, symmetric):
        found = Inference(flip=True)(network, image())
        torch.testing.assert_close(found.softmax(1), network(image()).softmax(1))
    lopsided = nn.Conv2d(3, 4, 3, padding=1)
    assert (Inference(flip=True)(lopsided, image()).softmax(1) - lopsided(image()).softmax(1)).abs().max() > 1e-3


def test_views_are_averaged_as_probabilities_at_the_original_size(pointwise):
    """Recomputed view by view."""
    expected = torch.zeros(2, 4, 40, 56)
    for size in [(20, 28), (40, 56), (60, 84)]:
        for mirror in (False, True):
            view = F.interpolate(image(), size, mode="bilinear", align_corners=False)
            view = pointwise(view.flip(3)).flip(3) if mirror else pointwise(view)
            expected += F.interpolate(view, (40, 56), mode="bilinear", align_corners=False).softmax(1) / 6
    found = Inference(scales=(0.5, 1.0, 1.5), flip=True)(pointwise, image())
    torch.testing.assert_close(found.softmax(1), expected)
    torch.testing.assert_close(found.exp(), expected)


def test_what_is_impossible_in_every_view_stays_finite():
    found = Inference(flip=True)(lambda seen: torch.cat([seen, 1e4 + seen], 1), image())
    assert found.isfinite().all()


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"window": (30, 64), "size_divisor": 16}, r"window of evaluation is \[30, 64\]; .*multiples of 16"),
        ({"window": (0, 64)}, "positive"),
        ({"overlap": 1.0}, "overlap of evaluation is 1.0"),
        ({"scales": ()}, "one or more"),
        ({"scales": (1.0, -0.5)}, "positive factors"),
        ({"scales": (1.0, float("nan"))}, "positive factors"),
        ({"scales": (float("inf"),)}, "positive factors"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        Inference(**settings)
