"""Boundary IoU against its definition, mask by mask."""

import cv2
import numpy as np
import pytest
import torch

from segdcn.metrics import BoundaryIoU


def band(mask, reach):
    """The definition: pixels of the mask from which the square around them leaves it, one by one."""
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        square = mask[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        outside = y < reach or x < reach or y + reach >= height or x + reach >= width
        found[y, x] = outside or not square.all()
    return found


def original_band(mask, reach):
    """As the paper's code computes it: erode `reach` times by 3x3, in a frame of zeros."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=reach)
    return mask & (eroded[1:-1, 1:-1] == 0)


def random_maps(seed, shape, ignored=True):
    """Blocks of 4 classes, and a prediction with some other blocks."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for _ in range(6):
        y, x, value = rng.integers(0, shape[0]), rng.integers(0, shape[1]), rng.integers(0, 4)
        labels[y : y + 7, x : x + 9] = value
    guess = labels.copy()
    guess[rng.integers(0, 5) :, rng.integers(0, 9) : 9] = 2
    if ignored:
        labels[:3, 4:9] = 255
        guess[-2:, :2] = 255
    return guess, labels


@pytest.mark.parametrize("distance,reach", [(0.02, 1), (0.1, 2), (0.2, 5)])
def test_it_is_what_the_definition_says_summed_over_images(distance, reach):
    """Of 14x18 pixels, 22.8 on the diagonal, 2 % are rounded up to 1, 10 % to 2, 20 % to 5."""
    measure = BoundaryIoU(4, distance)
    both, either = np.zeros(4), np.zeros(4)
    for seed in range(8):
        guess, labels = random_maps(seed, (14, 18))
        measure.update(torch.from_numpy(guess).long(), torch.from_numpy(labels).long())
        for index in range(4):
            truth, found = labels == index, (guess == index) & (labels != 255)
            for mask in (truth, found):
                assert (band(mask, reach) == original_band(mask, reach)).all()
            both[index] += (band(truth, reach) & band(found, reach)).sum()
            either[index] += (band(truth, reach) | band(found, reach)).sum()
    assert either.min() > 0
    assert measure.iou().tolist() == pytest.approx((both / either).tolist(), abs=1e-12)


def test_it_sees_what_iou_hides():
    """A square of 40x40 found as 38x38: IoU 0.90; the bands 3 pixels wide hold 444 and 420, 288 in common."""
    labels = torch.zeros(100, 100, dtype=torch.long)
    labels[20:60, 20:60] = 1
    guess = torch.zeros_like(labels)
    guess[21:59, 21:59] = 1
    measure = BoundaryIoU(2)
    measure.update(guess, labels)
    assert measure.pixels[:, 1].tolist() == [288, 444, 420]
    assert measure.iou()[1].item() == 0.5


def test_what_is_predicted_at_ignored_pixels_changes_nothing():
    """The border of VOC's objects is ignored; an outline anywhere inside it is right."""
    labels = torch.zeros(60, 60, dtype=torch.long)
    labels[15:45, 15:45] = 255
    labels[20:40, 20:40] = 1
    for spread in (0, 2, 5):
        guess = torch.zeros_like(labels)
        guess[20 - spread : 40 + spread, 20 - spread : 40 + spread] = 1
        measure = BoundaryIoU(3)
        measure.update(guess, labels)
        assert measure.iou()[:2].tolist() == [1.0, 1.0] and measure.iou()[2].isnan()
