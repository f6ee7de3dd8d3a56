"""Augmentation keeps labels whole, pads as promised and draws independently."""

import numpy as np
import pytest
import torch

from segdcn.data import transforms
from segdcn.data.base import IMAGENET_MEAN, IMAGENET_STD

PLAIN = {"scale_range": (1, 1), "flip_prob": 0, "colour_jitter": 0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def transform(crop_size, **settings):
    return transforms.train_transform(crop_size, **PLAIN | settings)


def coloured_ids(height, width, ids=(0, 7, 20)):
    """Vertical strips of ids, and an image whose red channel is 10 * id."""
    labels = np.repeat(np.array(ids, np.uint8), width // len(ids))[None].repeat(height, axis=0)
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0] = 10 * labels
    return image, labels


def test_the_same_key_gives_the_same_pixels_and_another_epoch_does_not():
    image, labels = coloured_ids(60, 90)
    augment = transform((32, 32), scale_range=(0.5, 2), flip_prob=0.5, colour_jitter=0.3)
    first = transforms.apply(augment, image, labels, (0, 3, 5))
    transforms.apply(augment, image, labels, (9, 9, 9))
    again = transforms.apply(augment, image, labels, (0, 3, 5))
    later = transforms.apply(augment, image, labels, (0, 4, 5))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])


def test_scaling_never_makes_up_a_label():
    image, labels = coloured_ids(60, 90)
    augment = transform((64, 64), scale_range=(0.5, 2))
    for epoch in range(30):
        _, scaled = transforms.apply(augment, image, labels, (0, epoch, 0))
        assert set(scaled.unique().tolist()) <= {0, 7, 20, 255}


def test_what_lies_outside_the_image_is_ignored_and_has_the_mean_colour():
    image, labels = np.full((20, 30, 3), 255, np.uint8), np.ones((20, 30), np.uint8)
    padded, ids = transforms.apply(transform((64, 96)), image, labels, (0, 0, 0))
    assert (ids == 1).sum() == 600 and (ids == 255).sum() == 64 * 96 - 600
    # The fill is rounded to a whole grey value: at most 0.5/255 off, divided by std 0.224.
    assert padded[:, ids == 255].abs().max() < 0.5 / 255 / 0.224 + 1e-6
    assert padded[:, ids == 1].min() > 2


def test_padding_falls_on_every_side():
    image, labels = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
    corners = set()
    for epoch in range(40):
        _, ids = transforms.apply(transform((32, 32)), image, labels, (0, epoch, 0))
        corners.add(tuple(int(value) for value in (ids == 0).nonzero()[0]))
    rows, columns = zip(*corners, strict=True)
    assert len(set(rows)) > 5 and len(set(columns)) > 5


@pytest.mark.parametrize("factor", [0.4, 2.0])
def test_labels_stay_on_their_pixels_when_scaled(factor):
    """Read off by plain nearest at 0.4, labels would lie up to a pixel beside their image."""
    image, labels = coloured_ids(60, 60, ids=(0, 20, 0, 20))
    image[:, :21], labels[:, :21] = 0, 0
    size = int(60 * factor)
    augment = transform((size, size), scale_range=(factor, factor))
    scaled, ids = transforms.apply(augment, image, labels, (0, 0, 0))
    red = (scaled[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255
    assert torch.equal(red > 100, ids == 20)


def test_a_flip_mirrors_image_and_labels_together():
    image, labels = coloured_ids(32, 33)
    mirrored, ids = transforms.apply(transform((32, 33), flip_prob=1), image, labels, (0, 0, 0))
    plain, _ = transforms.apply(transform((32, 33)), image, labels, (0, 0, 0))
    assert torch.equal(mirrored, plain.flip(2)) and ids[0, 0] == 20 and ids[0, -1] == 0


def test_scale_place_and_flip_are_drawn_independently():
    """`Compose.set_random_seed` starts every step from one seed: large scales would all be flipped."""
    ramp = np.arange(64, dtype=np.uint8)[None].repeat(64, axis=0)
    image = np.repeat(4 * ramp[..., None], 3, axis=2)
    augment = transform((32, 32), scale_range=(0.6, 1.4), flip_prob=0.5)
    slopes, starts = [], []
    for epoch in range(300):
        scaled, _ = transforms.apply(augment, image, ramp, (0, epoch, 0))
        row = scaled[0, 16]
        slopes.append(float(row[20] - row[12]))
        starts.append(float(row[16]))
    scale, flipped = 1 / np.abs(slopes), np.array(slopes) < 0
    # 300 independent pairs: a correlation beyond 0.2 has a chance of 1 in 2,000.
    assert abs(np.corrcoef(scale, flipped)[0, 1]) < 0.2
    assert abs(np.corrcoef(starts, flipped)[0, 1]) < 0.2
    assert 0.4 < flipped.mean() < 0.6


def test_colour_changes_leave_labels_and_places_alone():
    image, labels = coloured_ids(32, 33)
    _, ids = transforms.apply(transform((32, 33), colour_jitter=1), image, labels, (0, 0, 0))
    assert torch.equal(ids, torch.from_numpy(labels.astype(np.int64)))


def test_evaluation_only_normalises():
    image, labels = coloured_ids(31, 33)
    evaluate = transforms.eval_transform(IMAGENET_MEAN, IMAGENET_STD)
    normalised, ids = transforms.apply(evaluate, image, labels, (0, 0, 0))
    expected = (image / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert abs(normalised.numpy().transpose(1, 2, 0) - expected).max() < 1e-5
    assert (ids.numpy() == labels).all() and ids.dtype == torch.int64
