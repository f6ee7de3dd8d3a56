import math

import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from segdcn.metrics import Calibration


def test_it_agrees_with_torchmetrics_in_batches_of_any_size():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, 9, 11, generator=generator)
    labels = torch.randint(0, 5, (6, 9, 11), generator=generator)
    labels[:, :2] = 255
    reference = MulticlassCalibrationError(5, n_bins=15, norm="l1", ignore_index=255)
    measure = Calibration()
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        reference.update(logits[part].softmax(1), labels[part])
        measure.update(logits[part], labels[part])
    assert measure.error().item() == pytest.approx(reference.compute().item(), abs=1e-6)
    assert measure.pixels.sum() == 6 * 7 * 11


def test_sure_and_always_right_is_0_sure_and_always_wrong_is_1():
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1] = 100.0
    for label, error in [(1, 0.0), (0, 1.0)]:
        measure = Calibration()
        measure.update(logits, torch.full((1, 4, 4), label))
        assert measure.error().item() == pytest.approx(error)


def test_a_network_that_knows_nothing_is_half_sure_of_two_classes():
    """Half of the pixels are right, so the error is 0."""
    measure = Calibration()
    measure.update(torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 0, 1]]]))
    assert measure.error().item() == pytest.approx(0, abs=1e-7)
    assert Calibration().error().isnan()


def test_it_counts_also_where_a_fixed_order_is_asked_for(device):
    """Of a GPU torch's weighted count has none."""
    torch.use_deterministic_algorithms(True)
    try:
        measure = Calibration().to(device)
        logits = torch.tensor([[3.0, 1.0], [1.0, 2.0]]).view(1, 2, 1, 2)
        measure.update(logits.to(device), torch.tensor([[[0, 0]]], device=device))
    finally:
        torch.use_deterministic_algorithms(False)
    sure = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1))]  # that it is right, and wrongly
    assert measure.error().item() == pytest.approx((1 - sure[0] + sure[1]) / 2, abs=1e-6)
