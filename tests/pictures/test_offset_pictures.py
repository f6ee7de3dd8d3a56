"""Pictures of offset fields and of effective dilation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets import record
from segdcn.pictures.effective_dilation import SIZE_STYLES, course_picture, dilation_picture
from segdcn.pictures.offset_fields import RESTING, direction_colours, field_picture


def hexadecimal(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def pixels_of(picture, colour, tolerance=25) -> np.ndarray:
    """Where a picture has a colour, or nearly."""
    return np.abs(np.asarray(picture).astype(int) - colour).max(2) <= tolerance


def test_right_and_left_up_and_down_have_colours_far_apart_and_rest_is_pale():
    colours = direction_colours(np.array([0, 0, -1, 1.0]), np.array([1.0, -1, 0, 0])) * 255
    differences = [np.abs(a - b).max() for i, a in enumerate(colours) for b in colours[i + 1 :]]
    assert min(differences) > 60
    assert np.allclose(direction_colours(np.zeros(2), np.zeros(2)), RESTING)
    assert np.allclose(direction_colours(np.zeros(1), np.full(1, 9.0)) * 255, colours[0])  # longer than the rim
    half = direction_colours(np.zeros(1), np.full(1, 0.25))
    assert np.allclose(half, (RESTING + colours[0] / 255) / 2)


@pytest.fixture
def field():
    """A layer at stride 8 whose taps all move right by one pixel of its input in the upper half, and rest below."""
    network = nn.Sequential(nn.AvgPool2d(8), DeformableConv2d(3, 3, 3, padding=1))
    (found,) = record(network, network, torch.zeros(1, 3, 96, 96))
    found.offset[:, :, 1, :6] = 1.0
    found.modulation[:, :, :6] = 2.0
    return found


def test_a_field_s_tiles_show_the_upper_half_moving_right_and_the_lower_resting(field):
    picture = field_picture(np.full((96, 96, 3), 255, np.uint8), field)
    array = np.asarray(picture)
    assert array.shape[1] == 800  # halved, its text is still as large as W&B's
    arrows = pixels_of(picture, hexadecimal("#b3261e"))
    rows, columns = np.nonzero(arrows)
    assert columns.max() < 400 and 60 < rows.min() and rows.max() < 100 + 372 / 2
    right = pixels_of(picture, hexadecimal("#d55e00") * 0.9 + 25)
    direction = right[:, 400:]
    assert direction[100:270].mean() > 0.5 and direction[300:450].mean() < 0.02


def test_scales_do_not_follow_the_values(field):
    """Twice the offsets change the tile's colours, not the colour bar's ticks."""
    image = np.full((96, 96, 3), 128, np.uint8)
    one, two = (np.asarray(field_picture(image, f)) for f in (field, replace(field, offset=2 * field.offset)))
    assert one.shape == two.shape
    height = one.shape[0]
    assert np.array_equal(one[height - 55 :], two[height - 55 :])
    assert not np.array_equal(one[: height - 55], two[: height - 55])


def test_a_wide_image_and_a_plain_layer_are_drawn_too(field):
    unmodulated = replace(field, modulated=False)
    assert field_picture(np.zeros((48, 480, 3), np.uint8), unmodulated).size[0] == 800


def test_every_size_with_objects_has_its_row_and_course():
    torch.manual_seed(0)
    layers = ["encoder.layer4.0.conv2", "encoder.layer4.1.conv2"]
    values = {name: 2 + torch.rand(30, 2).double() for name in SIZE_STYLES} | {"medium": torch.zeros(0, 2).double()}
    table = dilation_picture(layers, values, {"disc": values["small"], "star": values["medium"]})
    history = [(step, {name: v.mean(0).tolist() for name, v in values.items() if len(v)}) for step in (10, 20)]
    course = course_picture(layers, history)
    for name, (colour, *_) in SIZE_STYLES.items():
        there = pixels_of(course, hexadecimal(colour), 12).sum() > 50
        assert there == (name != "medium")
    assert table.size[0] == course.size[0] == 800
    # Four rows, since only three sizes and one class have objects; and one.
    fewer = dilation_picture(layers, {"small": values["small"]}, {})
    assert table.size[1] - fewer.size[1] == pytest.approx(3 * 0.36 * 120, abs=1)
