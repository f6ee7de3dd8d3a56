"""The confusion matrix: exact, over the whole set, with classes that do not occur."""

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from segdcn.metrics import ConfusionMatrix, WeightedMean


def counted(predictions, labels, num_classes):
    confusion = ConfusionMatrix(num_classes)
    confusion.update(torch.tensor(predictions), torch.tensor(labels))
    return confusion


def test_iou_and_accuracy_by_hand():
    """Class 0: 2 right of 2 + 3 - 2 = 3; class 1: 1 right of 2 + 1 - 1 = 2; the 255 counts for nothing."""
    confusion = counted([0, 0, 0, 1, 1], [0, 0, 1, 1, 255], num_classes=2)
    assert confusion.matrix.tolist() == [[2, 0], [1, 1]]
    assert confusion.iou().tolist() == [2 / 3, 1 / 2]
    assert confusion.mean_iou().item() == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-15)
    assert confusion.pixel_accuracy().item() == 3 / 4


def test_a_class_in_neither_labels_nor_predictions_is_left_out_of_the_mean():
    iou = counted([0, 1], [0, 1], num_classes=3)
    assert iou.iou().isnan().tolist() == [False, False, True]
    assert iou.mean_iou().item() == 1.0


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = counted([0, 2], [0, 0], num_classes=3)
    assert confusion.iou()[2].item() == 0.0
    assert confusion.mean_iou().item() == pytest.approx(0.25)  # (1/2 + 0) / 2


def test_nothing_but_ignored_pixels_gives_nan():
    confusion = counted([0, 1], [255, 255], num_classes=2)
    assert confusion.matrix.sum() == 0
    assert confusion.mean_iou().isnan()
    assert confusion.pixel_accuracy().isnan()


def test_it_equals_torchmetrics_whatever_the_batches():
    """The macro Jaccard index of torchmetrics is the same quantity, where every class occurs."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randint(0, 5, (7, 13, 11), generator=generator)
    labels = torch.randint(0, 5, (7, 13, 11), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    reference = MulticlassJaccardIndex(5, average="macro", ignore_index=255)
    confusion = ConfusionMatrix(5)
    for start, stop in [(0, 1), (1, 4), (4, 7)]:
        reference.update(predictions[start:stop], labels[start:stop])
        confusion.update(predictions[start:stop], labels[start:stop])
    # torchmetrics divides in float32
    assert confusion.mean_iou().item() == pytest.approx(reference.compute().item(), rel=1e-6)


def test_counts_do_not_saturate_where_float32_would():
    """2**24 + 1 is the first integer that float32 cannot hold."""
    confusion = ConfusionMatrix(2)
    confusion.matrix[0, 0] = 2**24
    confusion.update(torch.tensor([0]), torch.tensor([0]))
    assert confusion.matrix[0, 0].item() == 2**24 + 1


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(RuntimeError):
        counted([0, 0], [0, 7], num_classes=2)


def test_the_counts_are_not_part_of_a_checkpoint():
    assert ConfusionMatrix(2).state_dict() == {}
    assert WeightedMean().state_dict() == {}


def test_a_weighted_mean_is_the_mean_over_pixels():
    """1 over 3 pixels and 5 over 1 pixel: 8 / 4."""
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), torch.tensor(3))
    mean.update(torch.tensor(5.0), torch.tensor(1))
    assert mean.compute().item() == 2.0
    mean.reset()
    assert mean.compute().isnan()
