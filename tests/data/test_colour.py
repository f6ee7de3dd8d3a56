"""Each change of colour does to a pixel what its name says."""

import random

import albumentations as A
import cv2
import numpy as np
import pytest

from segdcn.data.colour import GREY, ColourJitter, colour_matrix

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def change(pixels, **factors):
    image = np.array([pixels], np.uint8)
    return cv2.transform(image, colour_matrix(image[0].mean(0), **factors))[0].tolist()


def test_factors_of_one_and_no_turn_change_nothing():
    pixels = [[0, 0, 0], [255, 255, 255], [12, 200, 77]]
    assert change(pixels) == pixels


def test_brightness_multiplies_and_is_cut_off():
    assert change([[10, 100, 200]], brightness=1.5) == [[15, 150, 255]]


def test_contrast_spreads_about_the_mean_grey():
    """Of 40 and 80 the mean is 60: the distances of 20 become 30, or nothing."""
    assert change([[40] * 3, [80] * 3], contrast=1.5) == [[30] * 3, [90] * 3]
    assert change([[40] * 3, [80] * 3], contrast=0) == [[60] * 3, [60] * 3]


def test_contrast_uses_the_mean_that_earlier_steps_left():
    """Brightened by half, 40 and 80 are 60 and 120, and their mean 90."""
    assert change([[40] * 3, [80] * 3], brightness=1.5, contrast=0, order=(0, 1, 2, 3)) == [[90] * 3] * 2
    assert change([[40] * 3, [80] * 3], brightness=1.5, contrast=0, order=(1, 0, 2, 3)) == [[90] * 3] * 2


def test_without_saturation_pixels_are_grey():
    assert change([RED, GREEN, BLUE], saturation=0) == [[round(200 * weight)] * 3 for weight in GREY]


def test_a_third_of_the_circle_makes_red_green():
    assert change([RED, GREEN, BLUE], hue=1 / 3) == [list(GREEN), list(BLUE), list(RED)]
    assert change([[90, 90, 90]], hue=0.21) == [[90, 90, 90]]


@pytest.mark.parametrize("strength", [0.2, 1.0])
def test_factors_are_drawn_within_the_strength(strength):
    """A grey picture shows brightness alone, its mean being its own: all values between 1 +- strength are reached."""
    jitter = A.Compose([ColourJitter(strength)])
    image = np.full((4, 4, 3), 100, np.uint8)
    values = []
    for index in range(300):
        jitter.set_random_state(np.random.default_rng(index), random.Random(index))
        pixels = jitter(image=image)["image"]
        assert int(pixels.max()) - int(pixels.min()) <= 1  # rounded channel by channel
        values.append(int(pixels[0, 0, 0]))
    low, high = 100 * (1 - strength), 100 * (1 + strength)
    assert low <= min(values) < low + 4 * strength + 1 and high - 4 * strength - 1 < max(values) <= high
