import math

import pytest
import torch
from torch.nn import functional as F

from segdcn.errors import UserValueError
from segdcn.losses import LOSSES, WeightedLoss, boundary, cross_entropy, dice, focal, lovasz, ohem


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


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_zero_with_zero_gradients_where_all_is_ignored(name):
    logits, labels = logits_and_labels()
    loss = LOSSES[name](logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_ignores_ignored_pixels(name):
    logits, labels = logits_and_labels()
    other = logits.detach().clone()
    other[0, :, :2] = 50 * torch.randn(4, 2, 3)
    if name == "boundary":  # which looks at neighbours: the row beside counts for nothing either
        assert LOSSES[name](logits, labels).item() > 0
        return
    torch.testing.assert_close(LOSSES[name](other, labels), LOSSES[name](logits.detach(), labels))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_to_nearly_nothing_for_the_right_answer(name):
    labels = torch.arange(3).repeat_interleave(4).repeat(12, 1)[None]  # three stripes
    right = 40 * F.one_hot(labels, 3).movedim(-1, 1).float()
    assert LOSSES[name](right, labels).item() == pytest.approx(0, abs=1e-5)
    wrong = 40 * F.one_hot(torch.zeros_like(labels), 3).movedim(-1, 1).float()  # one class everywhere
    assert LOSSES[name](wrong, labels).item() > 0.5


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_computes_in_float32(name):
    logits, labels = logits_and_labels()
    assert LOSSES[name](logits.half(), labels).dtype == torch.float32


def test_by_hand_class_weights_count_pixels():
    """Two pixels of log 2 each, weights 1 and 3: the mean stays log 2; smoothing keeps it, too."""
    logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    assert cross_entropy(logits, labels, torch.tensor([1.0, 3.0])).item() == pytest.approx(math.log(2))
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)  # p = 3/4, 1/4
    expected = (1 * -math.log(3 / 4) + 3 * -math.log(1 / 4)) / 4
    assert cross_entropy(logits, labels, torch.tensor([1.0, 3.0])).item() == pytest.approx(expected)
    assert cross_entropy(logits, labels, torch.tensor([0.0, 0.0])).item() == 0


def test_by_hand_label_smoothing():
    logits, labels = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1), torch.tensor([[[0]]])
    expected = 0.9 * -math.log(3 / 4) + 0.1 * (-math.log(3 / 4) - math.log(1 / 4)) / 2
    assert cross_entropy(logits, labels, label_smoothing=0.1).item() == pytest.approx(expected)


def test_by_hand_ohem_keeps_the_hard_pixels():
    """Probabilities 0.9, 0.8, 0.6, 0.5 of the right class: the last two are below 0.7."""
    p = torch.tensor([0.9, 0.8, 0.6, 0.5])
    logits, labels = torch.stack([p.log(), (1 - p).log()])[None, :, None], torch.zeros(1, 1, 4, dtype=torch.long)
    assert ohem(logits, labels).item() == pytest.approx(-(math.log(0.6) + math.log(0.5)) / 2)
    three = -(math.log(0.8) + math.log(0.6) + math.log(0.5)) / 3
    assert ohem(logits, labels, min_kept=0.75).item() == pytest.approx(three)
    assert ohem(logits, labels, threshold=0.1, min_kept=0.25).item() == pytest.approx(-math.log(0.5))


def test_by_hand_focal():
    logits, labels = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1), torch.tensor([[[0]]])
    assert focal(logits, labels).item() == pytest.approx(0.25**2 * -math.log(0.75))
    torch.testing.assert_close(focal(logits, labels, gamma=0), cross_entropy(logits, labels))


def test_by_hand_dice():
    """Two pixels, p(class 0) = 3/4 in both, labels 0 and 1."""
    logits = torch.tensor([math.log(3), 0.0]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)
    expected = ((1 - 2 * 0.75 / 2.5) + (1 - 2 * 0.25 / 1.5)) / 2
    assert dice(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(expected)
    only = 1 - 2 * 1.5 / 3.5  # class 1 is not there and does not count
    assert dice(logits, torch.tensor([[[0, 0]]])).item() == pytest.approx(only)


def test_lovasz_is_one_minus_iou_for_hard_predictions():
    labels = torch.tensor([[[0, 0, 0, 1]]])
    guess = torch.tensor([[[0, 0, 1, 1]]])
    logits = 60 * F.one_hot(guess, 2).movedim(-1, 1).float()
    assert lovasz(logits, labels).item() == pytest.approx(((1 - 2 / 3) + (1 - 1 / 2)) / 2)


def test_boundary_forgives_small_shifts_and_no_large_ones():
    def stripes(edge):
        return (torch.arange(40) >= edge).long().repeat(20, 1)[None]

    def hard(labels):
        return 60 * F.one_hot(labels, 2).movedim(-1, 1).float()

    truth = stripes(20)
    near, far = boundary(hard(stripes(21)), truth).item(), boundary(hard(stripes(30)), truth).item()
    assert near == pytest.approx(0, abs=1e-4) and far == pytest.approx(1, abs=1e-4)


def test_a_weighted_sum_is_one():
    logits, labels = logits_and_labels()
    both = WeightedLoss({"cross_entropy": 1.0, "dice": 0.5})(logits, labels)
    torch.testing.assert_close(both, cross_entropy(logits, labels) + 0.5 * dice(logits, labels))


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"weights": {"cros_entropy": 1.0}}, "model.loss has 'cros_entropy'; expected some of cross_entropy, ohem"),
        ({"weights": {}}, "model.loss names no loss"),
        ({"weights": {"dice": 0.0}}, "model.loss.dice is 0.0; expected a positive weight"),
        ({"weights": {"dice": 1.0}, "label_smoothing": 0.1}, "are for the loss cross_entropy"),
        ({"weights": {"cross_entropy": 1.0}, "label_smoothing": 1.0}, "model.label_smoothing is 1.0"),
        ({"weights": {"cross_entropy": 1.0}, "class_weights": [0.0, 0.0]}, "not all 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        WeightedLoss(**settings)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_a_fixed_order_is_asked_for_torch_does_not_add_up_the_pixels_of_maps(monkeypatch, smoothing):
    """On a GPU it refuses; the number is the same."""
    (logits, labels), weights = logits_and_labels(), torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = cross_entropy(logits, labels, weights, smoothing)
    theirs, seen = F.cross_entropy, []
    monkeypatch.setattr(F, "cross_entropy", lambda *a, **more: seen.append(more["reduction"]) or theirs(*a, **more))
    torch.use_deterministic_algorithms(True)
    try:
        fixed = cross_entropy(logits, labels, weights, smoothing)
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == ["none"]
    torch.testing.assert_close(fixed, expected)
