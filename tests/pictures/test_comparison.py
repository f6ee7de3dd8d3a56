import numpy as np

from segdcn.pictures import comparison

PALETTE, NAMES = [[0, 0, 0], [200, 0, 0]], ["background", "disc"]


def test_changes_are_painted_by_who_is_right():
    """Five pixels: both right, better, worse, both wrong, and one that does not count."""
    labels = np.array([[0, 0, 0, 0, 255]], np.uint8)
    first, other = np.array([[0, 1, 0, 1, 0]], np.uint8), np.array([[0, 0, 1, 1, 1]], np.uint8)
    image = np.full((1, 5, 3), 100, np.uint8)
    painted = comparison._changes(image, labels, labels != 255, first, other)[0].tolist()
    pale = 255 - int(155 * 0.3) - 1
    expected = [(pale,) * 3, comparison.BETTER, comparison.WORSE, comparison.WRONG, comparison.IGNORED]
    assert [tuple(pixel) for pixel in painted] == expected


def test_eight_variants_with_long_names_fit_below_each_other():
    labels = np.zeros((20, 30), np.uint8)
    guesses = {f"deform_layers=3+dilation={number}+offset_lr_scale=0.1": labels for number in range(8)}
    picture = comparison.example_picture(np.zeros((20, 30, 3), np.uint8), labels, guesses, PALETTE, NAMES)
    two = comparison.example_picture(
        np.zeros((20, 30, 3), np.uint8), labels, dict(list(guesses.items())[:3]), PALETTE, NAMES
    )
    assert picture.width == two.width and picture.height > 2.5 * two.height  # three rows of variants


def test_scores_of_one_seed_or_of_many_are_drawn():
    one = comparison.scores_picture("mIoU in %", {"a": {0: 50.0}})
    many = comparison.scores_picture("mIoU in %", {"a": dict(enumerate(range(9))), "b": {3: 4.0}})
    assert many.height > one.height and many.width == one.width
