import numpy as np

from segdcn.pictures.confusion import COLOURS, confusion_picture


def drawn(matrix, names):
    return np.asarray(confusion_picture(np.array(matrix), names, "test"))


def share_of(picture, value):
    """Give the share of the picture's pixels that have the colour of a cell of this value."""
    colour = np.round(255 * np.array(COLOURS(np.sqrt(value))[:3]))
    return (np.abs(picture.astype(int) - colour).max(2) <= 2).mean()


def test_a_cell_has_the_colour_of_its_share_of_the_row():
    """One row is wrong by half, whatever the sizes of the classes."""
    picture = drawn([[5, 5], [0, 4000]], ["disc", "star"])
    cell = share_of(picture, 0.5) / 2
    assert cell > 0.05 and 0.8 * cell < share_of(picture, 0.0) < 1.3 * cell
    assert 0.8 * cell < share_of(picture, 1.0) < 1.3 * cell


def test_a_class_without_labelled_pixels_is_drawn_as_nothing():
    assert share_of(drawn([[3, 0], [0, 0]], ["disc", "star"]), 0.0) < share_of(
        drawn([[3, 0], [3, 0]], ["disc", "star"]), 0.0
    )


def test_colours_rise_in_lightness_alone():
    """So the picture reads in grey and in every kind of colour vision."""
    lightness = COLOURS(np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_the_picture_grows_with_the_classes_and_their_names():
    few, many = drawn(np.eye(2, dtype=int), ["a", "b"]), drawn(np.eye(21, dtype=int), ["diningtable"] * 21)
    assert many.shape[0] > 2 * few.shape[0] and many.shape[1] > 2 * few.shape[1]
