"""A view shows the pixels it says it shows: the right ones, in the right place, and no others."""

import cv2
import numpy as np
import pytest

from segdcn.data.geometry import draw_view

FILL = (255,)


def show(view, source, interpolation=cv2.INTER_NEAREST_EXACT):
    smooth = cv2.INTER_LINEAR if interpolation == cv2.INTER_LINEAR else cv2.INTER_NEAREST
    return view.place(view.cut(source, interpolation), FILL, smooth)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width), dtype=np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_at_its_own_size_a_view_is_a_slice(seed):
    source = noise(50, 70)
    view = draw_view(np.random.default_rng(seed), (50, 70), (20, 30))
    top, left = view.rows.start, view.columns.start
    assert np.array_equal(show(view, source), source[top : top + 20, left : left + 30])


def test_every_place_inside_the_image_is_drawn():
    rng = np.random.default_rng(0)
    tops = [draw_view(rng, (24, 64), (20, 64)).rows.start for _ in range(200)]
    assert set(tops) == {0, 1, 2, 3, 4}


def test_a_smaller_image_lies_whole_inside_the_crop():
    source = noise(10, 12)
    for seed in range(20):
        shown = show(draw_view(np.random.default_rng(seed), (10, 12), (16, 16)), source)
        assert np.array_equal(np.sort(shown[shown != 255]), np.sort(source.ravel()))


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.31, 2.0])
def test_a_scaled_view_shows_each_point_where_it_belongs(scale):
    """On a ramp of 1 per pixel, column x of a crop at `place` shows (place + x + 0.5) / scale - 0.5."""
    ramp = np.tile(np.arange(250, dtype=np.uint8), (100, 1))
    for seed in range(10):
        view = draw_view(np.random.default_rng(seed), (100, 250), (40, 64), scale)
        expected = view.columns.start + (np.arange(64) + 0.5) / scale - 0.5
        # Start and stop of the window are rounded to whole pixels, and grey values to whole ones.
        inner = slice(2, -2)  # at the window's edge there is no neighbour to interpolate with
        assert abs(show(view, ramp, cv2.INTER_LINEAR)[20] - expected)[inner].max() <= 1.5


@pytest.mark.parametrize(("angle", "quarters"), [(90, 1), (180, 2), (-90, 3)])
def test_quarter_turns_are_exact_and_anticlockwise(angle, quarters):
    source = noise(32, 32)
    view = draw_view(np.random.default_rng(0), (32, 32), (32, 32), angle=angle)
    assert np.array_equal(show(view, source), np.rot90(source, quarters))


def test_a_turned_picture_has_ignored_corners_and_its_centre_stays():
    source = np.zeros((64, 64), np.uint8)
    shown = show(draw_view(np.random.default_rng(0), (64, 64), (64, 64), angle=30), source)
    assert all(shown[y, x] == 255 for y in (0, -1) for x in (0, -1))
    assert (shown[16:48, 16:48] == 0).all()


@pytest.mark.parametrize("angle", [7, 45, 100])
def test_a_turned_crop_of_a_large_image_is_filled_by_the_image(angle):
    """What turning brings in from around the crop is read too."""
    source = np.zeros((300, 300), np.uint8)
    views = [draw_view(np.random.default_rng(seed), (300, 300), (60, 100), angle=angle) for seed in range(30)]
    inside = [v for v in views if v.rows.length == v.canvas[0] and v.columns.length == v.canvas[1]]
    assert inside and all((show(view, source) == 0).all() for view in inside)


def test_a_flip_comes_last():
    source = noise(40, 40)
    plain, mirrored = (draw_view(np.random.default_rng(0), (40, 40), (24, 24), 1.5, 10, flip) for flip in (False, True))
    assert np.array_equal(show(mirrored, source), show(plain, source)[:, ::-1])


def test_nothing_outside_the_window_is_read():
    """Else a cache would have to read more of the file."""
    source = noise(200, 200)
    for seed in range(10):
        view = draw_view(np.random.default_rng(seed), (200, 200), (40, 40), 1.3, 20)
        spoilt = np.full_like(source, 77)
        window = (slice(view.rows.start, view.rows.stop), slice(view.columns.start, view.columns.stop))
        assert spoilt[window].size < source.size / 4
        spoilt[window] = source[window]
        assert np.array_equal(show(view, spoilt), show(view, source))


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2)])
@pytest.mark.parametrize("scale", [0.01, 0.5, 4.0])
def test_the_smallest_images_fit_any_crop(size, scale):
    for seed in range(5):
        view = draw_view(np.random.default_rng(seed), size, (32, 64), scale, angle=15)
        assert show(view, np.zeros(size, np.uint8)).shape == (32, 64)
