"""Augmentation keeps labels whole, pads as promised and draws independently."""

import cv2
import numpy as np
import pytest
import torch

from segdcn.data import transforms
from segdcn.data.base import IMAGENET_MEAN, IMAGENET_STD
from segdcn.data.geometry import draw_view
from segdcn.data.transforms import EvalTransform, TrainTransform

PLAIN = {"scale_range": (1, 1), "flip_prob": 0, "colour_jitter": 0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def transform(crop_size, **settings):
    return TrainTransform(crop_size, **PLAIN | settings)


def coloured_ids(height, width, ids=(0, 7, 20)):
    """Vertical strips of ids, and an image whose red channel is 10 * id."""
    labels = np.repeat(np.array(ids, np.uint8), width // len(ids))[None].repeat(height, axis=0)
    image = np.zeros((*labels.shape, 3), np.uint8)
    image[..., 0] = 10 * labels
    return image, labels


def test_the_same_key_gives_the_same_pixels_and_another_epoch_does_not():
    image, labels = coloured_ids(60, 90)
    augment = transform((32, 32), scale_range=(0.5, 2), flip_prob=0.5, colour_jitter=0.3)
    first = augment(image, labels, (0, 3, 5))
    augment(image, labels, (9, 9, 9))
    again = augment(image, labels, (0, 3, 5))
    later = augment(image, labels, (0, 4, 5))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])


def test_scaling_never_makes_up_a_label():
    image, labels = coloured_ids(60, 90)
    augment = transform((64, 64), scale_range=(0.5, 2))
    for epoch in range(30):
        _, scaled = augment(image, labels, (0, epoch, 0))
        assert set(scaled.unique().tolist()) <= {0, 7, 20, 255}


def test_what_lies_outside_the_image_is_ignored_and_has_the_mean_colour():
    image, labels = np.full((20, 30, 3), 255, np.uint8), np.ones((20, 30), np.uint8)
    padded, ids = transform((64, 96))(image, labels, (0, 0, 0))
    assert (ids == 1).sum() == 600 and (ids == 255).sum() == 64 * 96 - 600
    # The fill is rounded to a whole grey value: at most 0.5/255 off, divided by std 0.224.
    assert padded[:, ids == 255].abs().max() < 0.5 / 255 / 0.224 + 1e-6
    assert padded[:, ids == 1].min() > 2


def test_padding_falls_on_every_side():
    image, labels = np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), np.uint8)
    corners = set()
    for epoch in range(40):
        _, ids = transform((32, 32))(image, labels, (0, epoch, 0))
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
    scaled, ids = augment(image, labels, (0, 0, 0))
    red = (scaled[0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]) * 255
    assert torch.equal(red > 100, ids == 20)


def test_a_flip_mirrors_image_and_labels_together():
    image, labels = coloured_ids(32, 33)
    mirrored, ids = transform((32, 33), flip_prob=1)(image, labels, (0, 0, 0))
    plain, _ = transform((32, 33))(image, labels, (0, 0, 0))
    assert torch.equal(mirrored, plain.flip(2)) and ids[0, 0] == 20 and ids[0, -1] == 0


def test_scale_place_and_flip_are_drawn_independently():
    """`Compose.set_random_seed` starts every step from one seed: large scales would all be flipped."""
    ramp = np.arange(64, dtype=np.uint8)[None].repeat(64, axis=0)
    image = np.repeat(4 * ramp[..., None], 3, axis=2)
    augment = transform((32, 32), scale_range=(0.6, 1.4), flip_prob=0.5)
    slopes, starts = [], []
    for epoch in range(300):
        scaled, _ = augment(image, ramp, (0, epoch, 0))
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
    _, ids = transform((32, 33), colour_jitter=1)(image, labels, (0, 0, 0))
    assert torch.equal(ids, torch.from_numpy(labels.astype(np.int64)))


EVERYTHING = {"scale_range": (0.5, 2), "flip_prob": 0.5, "rotation": 30, "cat_max_ratio": 0.6}


@pytest.mark.parametrize(
    ("settings", "reach"), [(EVERYTHING, 2), (EVERYTHING | {"blur": 1, "scale_range": (0.3, 2)}, 12)]
)
def test_an_image_that_encodes_its_labels_goes_on_doing_so(settings, reach):
    """Away from borders between labels by what interpolation and blur reach, each pixel has its label's colour."""
    labels = np.kron(np.random.default_rng(0).integers(0, 9, (6, 8), dtype=np.uint8), np.ones((40, 40), np.uint8))
    image = np.repeat(25 * labels[..., None], 3, axis=2)
    augment = transform((96, 128), **settings)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    seen = set()
    for epoch in range(30):
        pixels, ids = augment(image, labels, (0, epoch, 0))
        stored = ((pixels.numpy().transpose(1, 2, 0) * std + mean) * 255).round()
        found = ids.numpy().astype(np.uint8)
        square = np.ones((2 * reach + 1,) * 2, np.uint8)
        calm = cv2.dilate(found, square) == cv2.erode(found, square)
        calm[[*range(reach), *range(-reach, 0)]] = calm[:, [*range(reach), *range(-reach, 0)]] = False
        expected = np.where((found == 255)[..., None], (mean * 255).round(), 25.0 * found[..., None])
        assert abs(stored - expected)[calm].max(initial=0) <= 1
        seen |= set(found[calm].tolist())
    assert len(seen) > 5 and 255 in seen


def test_with_all_augmentations_a_key_repeats_and_the_input_stays_as_it_was():
    image, labels = coloured_ids(60, 90)
    image.flags.writeable = labels.flags.writeable = False  # as pixels from a cache are
    augment = transform((32, 32), **EVERYTHING, blur=0.5, colour_jitter=0.3)
    for epoch in range(10):
        first, again = augment(image, labels, (0, epoch, 5)), augment(image, labels, (0, epoch, 5))
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_pixels_that_cannot_be_written_to_pass_at_their_own_size():
    image, labels = coloured_ids(32, 32)
    image.flags.writeable = labels.flags.writeable = False
    for settings in ({}, {"colour_jitter": 0.3, "blur": 1}):
        pixels, ids = transform((32, 32), **settings)(image, labels, (0, 0, 0))
        pixels += 1
        ids += 1
    assert image.max() == 200


def test_scales_are_uniform_over_their_range():
    """Labels are column numbers, so 100 pixels that span 99 / scale columns tell the scale."""
    labels = np.tile(np.arange(250, dtype=np.uint8), (250, 1))
    image = np.zeros((250, 250, 3), np.uint8)
    augment = transform((100, 100), scale_range=(0.5, 2))
    scales = []
    for index in range(400):
        row = augment(image, labels, (0, 0, index))[1][50]
        scales.append(99 / float(row[-1] - row[0]))
    reached = (np.sort(scales) - 0.5) / 1.5
    # Kolmogorov-Smirnov: 400 uniform numbers stray by more than 0.08 once in 100 times.
    assert abs(reached - np.arange(400) / 400).max() < 0.08


def test_crops_of_one_class_are_drawn_again():
    """Left 0, right 1, a third of all pixels ignored: ignored pixels are in no share."""
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 40:] = 1
    labels[:20] = 255
    image = np.zeros((60, 80, 3), np.uint8)

    def largest(ratio, index):
        ids = transform((60, 40), cat_max_ratio=ratio)(image, labels, (0, 0, index))[1]
        counts = torch.bincount(ids[ids != 255], minlength=2)
        return float(counts.max() / counts.sum())

    taken = [largest(1, index) for index in range(60)]
    assert sum(share > 0.85 for share in taken) > 10
    assert all(largest(0.85, index) < 0.851 for index in range(60))


@pytest.mark.parametrize("label", [3, 255])
def test_where_no_crop_has_enough_classes_the_tenth_is_taken(label, monkeypatch):
    drawn = []
    monkeypatch.setattr(transforms, "draw_view", lambda *a: drawn.append(draw_view(*a)) or drawn[-1])
    _, ids = transform((16, 16), cat_max_ratio=0.5)(
        np.zeros((40, 40, 3), np.uint8), np.full((40, 40), label, np.uint8), (0, 0, 0)
    )
    assert len(drawn) == 10 and (ids == label).all()


def test_evaluation_only_normalises():
    image, labels = coloured_ids(31, 33)
    evaluate = EvalTransform(IMAGENET_MEAN, IMAGENET_STD)
    normalised, ids = evaluate(image, labels, (0, 0, 0))
    expected = (image / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert abs(normalised.numpy().transpose(1, 2, 0) - expected).max() < 1e-5
    assert (ids.numpy() == labels).all() and ids.dtype == torch.int64
