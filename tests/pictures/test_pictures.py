import numpy as np
import torch

from segdcn.offsets import Points
from segdcn.pictures.confusion import confusion_picture
from segdcn.pictures.offsets import DPI, FOOT, TAP_COLOURS, choose_places, sampling_picture
from segdcn.pictures.segmentation import IGNORED, colour, panel, to_pixels

PALETTE = [[0, 0, 0], [200, 30, 30], [30, 30, 200]]


def test_normalisation_is_undone_exactly():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    image = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)).float()
    assert np.array_equal(to_pixels(image, mean, std), pixels)


def test_labels_take_their_classes_colours_and_ignored_pixels_a_pale_one():
    painted = colour(np.array([[0, 1], [2, 255]], np.uint8), PALETTE)
    assert painted.tolist() == [[PALETTE[0], PALETTE[1]], [PALETTE[2], list(IGNORED)]]


def test_a_panel_shows_the_prediction_in_its_colours():
    labels = torch.zeros(40, 60, dtype=torch.long)
    labels[10:30, 10:30] = 1
    prediction = torch.full_like(labels, 2)
    picture = np.asarray(
        panel(torch.zeros(3, 40, 60), labels, prediction, PALETTE, ["background", "disc", "star"], [0.5] * 3, [1] * 3)
    )
    third = picture[:, picture.shape[1] // 2 : picture.shape[1] * 3 // 4]
    assert (third == PALETTE[2]).all(axis=2).mean() > 0.5


def test_a_class_s_name_may_hold_dollars():
    """Matplotlib takes what stands between two for a formula, and this one for a wrong one."""
    names = [r"a $\frac$", "b", "c"]
    labels = torch.zeros(20, 30, dtype=torch.long)
    assert panel(torch.zeros(3, 20, 30), labels, labels, PALETTE, names, [0.5] * 3, [1] * 3).width > 300
    assert confusion_picture(np.eye(3, dtype=int), names, "$x_$").width > 300


def test_places_are_inside_the_largest_regions_with_background_last():
    labels = np.zeros((50, 50), np.uint8)
    labels[5:25, 5:25] = 3
    labels[30:36, 30:36] = 1
    labels[40:42, 2:4] = 1
    labels[45:, 45:] = 255
    places = choose_places(labels, count=3)
    assert [label for _, _, label in places] == [3, 1, 0]
    assert all(labels[int(y), int(x)] == label for y, x, label in places)
    y, x, _ = places[0]
    assert abs(y - 14.5) <= 1 and abs(x - 14.5) <= 1


def tap_pixels(picture, tap):
    """How many pixels of a picture have the colour of a tap."""
    colour = [int(TAP_COLOURS[tap][at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(np.asarray(picture).astype(int) - colour).max(2) <= 12).sum())


def drawn(weights, taps):
    """Draw points of one layer in a row on black."""
    count = len(weights)
    places = torch.full((count,), 20.0), torch.linspace(8, 92, count)
    points = Points(*places, torch.tensor(weights), torch.tensor(taps))
    black = np.zeros((60, 100, 3), np.uint8)
    return sampling_picture(black, [(50, 50, "disc")], [[points]], ["1 layer"])


def above_the_legend(picture):
    return picture.crop((0, 0, picture.width, picture.height - round(FOOT * DPI)))


def test_a_dot_has_the_colour_of_its_tap_and_the_area_of_its_modulation():
    picture = above_the_legend(drawn([2.0, 1.0, 0.5, 1.0], [0, 1, 2, 5]))
    counts = {tap: tap_pixels(picture, tap) for tap in range(7)}  # then white and grey, which are elsewhere too
    # Without the black rims, which take more of small ones.
    assert 0.35 < counts[1] / counts[0] < 0.55 and 0.35 < counts[2] / counts[1] < 0.55
    assert abs(counts[5] / counts[1] - 1) < 0.15
    assert counts[3] == counts[4] == counts[6] == 0


def test_dots_of_little_modulation_show_their_colours_also_at_half_the_size():
    """The size of W&B's panels."""
    picture = above_the_legend(drawn([0.01] * 9, list(range(9))))
    assert all(tap_pixels(picture.reduce(2), tap) for tap in range(7))


def test_a_legend_names_the_colours_of_all_taps():
    picture = drawn([1.0], [4])
    legend = picture.crop((0, picture.height - round(FOOT * DPI), picture.width, picture.height))
    assert all(tap_pixels(legend, tap) > 20 for tap in range(9))


def test_a_sampling_picture_draws_every_place_and_column():
    points = Points(*(torch.linspace(5, 35, 9), torch.linspace(5, 35, 9), torch.ones(9), torch.arange(9)))
    image = np.full((40, 40, 3), 255, np.uint8)
    picture = np.asarray(sampling_picture(image, [(20, 20, "disc")] * 2, [[points] * 3] * 2, ["1", "2", "3"]))
    coloured = (picture.max(2).astype(int) - picture.min(2)) > 60
    height, width = coloured.shape
    for row in range(2):
        for column in range(3):
            tile = coloured[
                row * height // 2 : (row + 1) * height // 2, column * width // 3 : (column + 1) * width // 3
            ]
            assert tile.any()
