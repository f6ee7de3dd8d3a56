import pytest
import torch
from torch.nn import functional as F

from segdcn.losses import cross_entropy


def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 3, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 5, 3), generator=generator)
    labels[0, :2] = 255
    return logits, labels


def test_it_is_the_mean_over_the_pixels_with_a_class():
    logits, labels = logits_and_labels()
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))


def test_equal_logits_cost_log_n():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    assert cross_entropy(torch.zeros(1, 8, 2, 2), labels).item() == pytest.approx(torch.tensor(8.0).log().item())


def test_a_batch_of_ignored_pixels_gives_zero_with_zero_gradients():
    logits, labels = logits_and_labels()
    loss = cross_entropy(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max().item() == 0.0


def test_ignored_pixels_get_no_gradient():
    logits, labels = logits_and_labels()
    cross_entropy(logits, labels).backward()
    assert logits.grad[0, :, :2].abs().max().item() == 0.0
    assert logits.grad[0, :, 2:].abs().min().item() > 0.0


def test_half_precision_logits_are_summed_in_float32():
    """65,536 pixels at log(2) each: a float16 sum would be infinite."""
    logits = torch.zeros(1, 2, 256, 256, dtype=torch.float16)
    loss = cross_entropy(logits, torch.zeros(1, 256, 256, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.693147, rel=1e-5)
