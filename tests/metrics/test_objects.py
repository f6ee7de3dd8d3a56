"""IoU by size on maps that can be counted by hand, and Cityscapes' iIoU against the official code."""

import numpy as np
import pytest
import torch

from segdcn.metrics import ConfusionMatrix, ObjectSizes

SMALL, MEDIUM, LARGE = range(3)


def blank():
    return torch.zeros(200, 300, dtype=torch.long)


def measured(guess, labels, instances=None, num_classes=3):
    measure = ObjectSizes(num_classes)
    measure.update(guess, labels, instances)
    return measure


def test_objects_of_each_size_are_scored_apart():
    """Class 1: 10x10 found but for 20 pixels, 40x40 found whole, 100x100 found half."""
    labels, guess = blank(), blank()
    labels[10:20, 10:20] = guess[10:20, 10:18] = 1
    labels[10:50, 100:140] = guess[10:50, 100:140] = 1
    labels[60:160, 30:130] = guess[60:160, 30:80] = 1
    measure = measured(guess, labels)
    assert measure.objects[1].tolist() == [1, 1, 1]
    assert measure.iou()[1].tolist() == [0.8, 1.0, 0.5] == measure.recall()[1].tolist()
    # The background is one connected object, of 48300 pixels, and 20 + 5000 pixels are falsely it.
    assert measure.pixels[:, 0, LARGE].tolist() == [48300, 0, 5020]
    assert measure.iou()[2].isnan().all()


@pytest.mark.parametrize("height,width,size", [(31, 33, SMALL), (32, 32, MEDIUM), (95, 97, MEDIUM), (96, 96, LARGE)])
def test_limits_are_cocos(height, width, size):
    """32*32 = 1024 pixels are medium, 1023 are small; 96*96 = 9216 are large, 9215 are medium."""
    labels = blank()
    labels[1 : 1 + height, 1 : 1 + width] = 1
    assert measured(labels, labels).objects[1].nonzero().tolist() == [[size]]


def test_what_spills_over_goes_to_the_nearest_object_it_meets():
    """A small and a medium object, found as one blob: its 40 columns between them are split evenly."""
    labels, guess = blank(), blank()
    labels[10:20, 10:20] = 1  # small
    labels[10:50, 60:100] = 1  # medium
    guess[10:20, 10:100] = guess[10:50, 60:100] = 1
    measure = measured(guess, labels)
    assert measure.pixels[2, 1].tolist() == [200, 200, 0]
    assert measure.iou()[1, SMALL] == 100 / 300 and measure.iou()[1, MEDIUM] == 1600 / 1800


def test_what_meets_no_object_is_a_false_object_of_its_own_size():
    """Beside a small object; in another image, without any, a false one counts all the same."""
    labels, guess = blank(), blank()
    labels[10:20, 10:20] = guess[10:20, 10:20] = 1
    guess[10:15, 40:44] = 1  # 20 pixels: small
    guess[100:150, 100:150] = 1  # 2500: medium
    measure = measured(guess, labels)
    assert measure.pixels[2, 1].tolist() == [20, 2500, 0]
    empty = blank()
    elsewhere = blank()
    elsewhere[:, :100] = 1  # 20000: large
    measure.update(elsewhere, empty)
    assert measure.pixels[2, 1].tolist() == [20, 2500, 20000]
    assert measure.iou()[1].tolist() == [100 / 120, 0.0, 0.0]


def test_an_outline_may_run_through_ignored_pixels():
    """The ring around the object is ignored; what is beyond it belongs to the object's region all the same."""
    labels, guess = blank(), blank()
    labels[5:35, 5:35] = 255
    labels[10:30, 10:30] = 1
    guess[10:30, 10:40] = 1
    measure = measured(guess, labels)
    assert measure.pixels[:, 1, SMALL].tolist() == [400, 0, 100]


def test_instance_maps_tell_touching_objects_apart_and_leave_out_what_is_none():
    labels, guess = blank(), blank()
    labels[10:20, 10:30] = guess[10:20, 10:30] = 1
    instances = torch.zeros_like(labels)
    instances[10:20, 10:20], instances[10:20, 20:30] = 1001, 1002
    assert measured(guess, labels).objects.sum(1).tolist() == [1, 1, 0]
    measure = measured(guess, labels, instances)
    assert measure.objects.sum(1).tolist() == [0, 2, 0]
    assert measure.iou()[0].isnan().all() and measure.iou()[1, SMALL] == 1
    assert measure.images.tolist() == [1, 0]


@pytest.mark.parametrize("with_map", [False, True])
def test_every_pixel_is_attributed_once(with_map):
    """Over random maps: false pixels as in the confusion matrix, and without maps right and missed ones too."""
    confusion, measure = ConfusionMatrix(4), ObjectSizes(4)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for _ in range(5):
        coarse = rng.integers(0, 4, (2, 12, 15)).repeat(13, 1).repeat(11, 2)
        labels, guess = torch.from_numpy(coarse)
        guess = torch.where(torch.rand(labels.shape, generator=generator) < 0.7, labels, guess)
        labels[:20, :30], guess[100:110, :50] = 255, 255
        instances = (labels == 1).long() * (1 + torch.arange(labels.shape[1]) // 40) if with_map else None
        confusion.update(guess, labels)
        measure.update(guess, labels, instances)
    diagonal = confusion.matrix.diagonal()
    assert measure.pixels[2].sum(1).tolist() == (confusion.matrix.sum(0) - diagonal).tolist()
    counted = [1] if with_map else range(4)
    assert measure.pixels[0].sum(1)[counted].tolist() == diagonal[counted].tolist()
    missed = confusion.matrix.sum(1) + confusion.missed - diagonal
    assert measure.pixels[1].sum(1)[counted].tolist() == missed[counted].tolist()
