import numpy as np
import pytest

from segdcn.pictures.charts import BEST, Axis, _ticks, parallel_coordinates

RED = np.array([int(BEST[at : at + 2], 16) for at in (1, 3, 5)])


def red(picture):
    """Where the best line is: (rows, columns) of its pixels."""
    return np.nonzero((np.abs(np.asarray(picture).astype(int) - RED) < 8).all(axis=2))


def test_the_best_line_is_drawn_through_its_values():
    """From the lowest place of the first axis to the top of the score."""
    layers, score = Axis("model.deform_layers", [0, 1, 2], ["0", "1", "3"]), Axis("val/mIoU", [0.9, 0.5, 0.7])
    picture = parallel_coordinates("tried", [layers], score, [False, False, True], best=0)
    rows, columns = red(picture)
    chart = columns > np.asarray(picture).shape[1] * 0.3  # right of the key
    rows, columns = rows[chart], columns[chart]
    assert rows[columns.argmin()] > rows[columns.argmax()] + 50


def test_without_a_best_no_line_stands_out():
    axes = [Axis("lr", [0.001, 0.01], log=True), Axis("x", [1.0, 1.0])]
    picture = parallel_coordinates("tried", axes, Axis("val/mIoU", [0.5, 0.5]), [True, True], best=None)
    assert len(red(picture)[0]) == 0


@pytest.mark.parametrize("values", [[0.0, 0.0], [1e-9, 2e-9], [-5.0, 1e6]])
def test_any_numbers_can_be_drawn(values):
    assert parallel_coordinates("tried", [Axis("x", values)], Axis("score", values), [False, False], 0).width > 300


def test_long_labels_are_cut_to_the_room_between_two_axes():
    losses = ['{"cross_entropy": 1.0, "dice": 0.5, "lovasz": 0.25}', '{"focal": 1.0}']
    labels = [label for _, label in _ticks(Axis("loss", [0, 1], losses))]
    assert labels == ['{"cross_entropy": 1…', '{"focal": 1.0}']
