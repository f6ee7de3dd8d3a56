"""The offsets of RoI pooling learn where an object is, from the loss alone."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from off_centre import SHIFT, Regressor, draw, train  # noqa: E402


@pytest.mark.parametrize("seed", [0, 1])
def test_training_moves_the_bins_to_the_object(seed):
    """From a quarter of the box away, in any direction, to less than half of that; the loss knows heights only."""
    unseen = draw(256, torch.Generator().manual_seed(9))
    assert abs(Regressor().distance(unseen) - SHIFT) < 1e-5
    model, losses = train(300, seed)
    assert model.distance(unseen) < SHIFT / 2
    _, still = train(300, seed, moves=False)
    assert sum(losses[-20:]) < sum(still[-20:]) / 4
