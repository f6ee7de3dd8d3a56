"""What travels with a network survives the way through texts, and nonsense is refused."""

import pytest

from segdcn.description import Description
from segdcn.errors import InvalidDataError

VALUES = {
    "class_names": ["sky", "straße"],
    "palette": [[0, 0, 255], [128, 64, 128]],
    "mean": [0.1, 0.2, 1 / 3],
    "std": [0.2, 0.2, 0.2],
    "size_divisor": 16,
    "config": {"num_classes": 2, "loss": None},
    "weights_sha256": "ab",
}


def test_texts_lead_back_to_it_exactly():
    description = Description.from_values(VALUES, "a")
    assert Description.from_texts(description.texts() | {"another": "entry"}, "a") == description


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": 7},
        {"class_names": []},
        {"class_names": [1, 2]},
        {"palette": [[0, 0, 255]]},
        {"palette": [1, 2]},
        {"palette": 5},
        {"palette": [[0, 0, 256], [128, 64, 128]]},
        {"palette": [[0, 0, -1], [128, 64, 128]]},
        {"palette": [[0, 0, 0.5], [128, 64, 128]]},
        {"mean": [0.5]},
        {"std": [0.2, 0.2, 0]},
        {"size_divisor": 0},
        {"config": []},
        {"config": {"num_classes": 3}},
        {"weights_dtype": "int8"},
        {"device": "tpu"},
    ],
    ids=str,
)
def test_what_cannot_be_is_named(wrong):
    (name,) = wrong
    with pytest.raises(InvalidDataError, match=f"a.onnx: {name} is .*, which cannot be"):
        Description.from_values(VALUES | wrong, "a.onnx")


def test_what_is_missing_is_named():
    with pytest.raises(InvalidDataError, match="a.onnx does not say mean, std"):
        Description.from_values({key: value for key, value in VALUES.items() if key not in ("mean", "std")}, "a.onnx")
