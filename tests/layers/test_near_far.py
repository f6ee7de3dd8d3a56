"""The offsets of a convolution learn where to read, from the loss alone; and where they cannot."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from near_far import FAR, FINE, TRUE_OFFSETS, draw, error, mean_offsets, new_layer, train  # noqa: E402


@pytest.mark.parametrize("seed", [0, 1])
def test_every_tap_finds_its_place(seed):
    """Three pixels away, in one half of the picture only; to a tenth of a pixel, on pictures never seen."""
    layer, losses = train(300, seed)
    unseen = draw(8, torch.Generator().manual_seed(9))
    near, far = mean_offsets(layer, unseen)
    assert near.abs().max() < 0.1
    assert (far - TRUE_OFFSETS).abs().max() < 0.1
    assert error(layer, unseen) < error(new_layer(), unseen) / 50
    assert losses[-1] < losses[0] / 20


def test_a_texture_finer_than_the_way_does_not_lead_there():
    """The slope at a tap says nothing about a place that lies many hills further on."""
    layer, losses = train(300, length=FINE)
    far = mean_offsets(layer, draw(8, torch.Generator().manual_seed(9), FINE))[1]
    assert (far - TRUE_OFFSETS).norm(dim=1).mean() > FAR - 1
    assert losses[-1] > losses[0] / 2
