"""Data sets built from a YAML by the verbs take and refuse what `fit` does, in one line."""

import pytest
import yaml

from segdcn.data.describe import load_data
from segdcn.errors import UserValueError

SETTINGS = {"root": "set", "classes": {"road": [0, 0, 0], "sky": [1, 1, 1]}}


def described(tmp_path, settings, kind="segdcn.data.Folder", **beside):
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump({"class_path": kind, "init_args": SETTINGS | settings, **beside}, sort_keys=False))
    return path


def test_values_arrive_as_the_class_wants_them(tmp_path):
    path = described(tmp_path, {"crop_size": [64, 32], "rotation": 5, "id_map": {"7": 1}})
    data = load_data(str(path), {"batch_size": 3}, root="elsewhere", train_split=None)
    assert (data.crop_size, data.rotation, data.id_map, data.batch_size) == ((64, 32), 5.0, {7: 1}, 3)
    assert (str(data.root), data.train_split, data.class_names) == ("elsewhere", "train", ("road", "sky"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ["road", "sky"]}, "data.classes: expected a dict; got ['road', 'sky']"),
        ({"classes": {"road": 1}}, "data.classes: expected a list; got 1"),
        ({"classes": {True: [0, 0, 0]}}, "data.classes names True; expected text (put it in quotation marks)"),
        ({"label_format": "rgb"}, "data.label_format: expected one of 'ids', 'colours'; got rgb"),
        ({"seed": "many"}, "data.seed: expected a int; got many"),
        ({"crop_size": "big"}, "data.crop_size: expected a int; expected a tuple; got big"),
        ({"resize": [16]}, "data.resize: expected a tuple with 2 elements; got [16]"),
        ({"mean": [0.5] * 4}, "data.mean: expected a tuple with 3 elements"),
        ({"mean": [0.5, 0.5, float("nan")]}, "data.mean is [0.5, 0.5, nan]; expected numbers"),
        ({"std": None}, "data.std is null; expected a value (leave the line out for the default)"),
        ({"images": None}, "data.images is null; expected a value"),
        ({"scale_range": [0.5, float("inf")]}, "data.scale_range is [0.5, inf]; expected [smallest, largest]"),
        ({"crop_sise": 64}, "unknown key data.crop_sise; did you mean data.crop_size?"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, settings, message):
    with pytest.raises(UserValueError) as caught:
        load_data(str(described(tmp_path, settings)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_setting_beside_init_args_is_not_passed_over(tmp_path):
    with pytest.raises(UserValueError, match="has seed beside class_path and init_args; settings go below init_args"):
        load_data(str(described(tmp_path, {}, seed=1)))


def test_the_base_of_all_data_sets_is_none(tmp_path):
    with pytest.raises(UserValueError, match="expected the class of a data set, such as segdcn.data.Folder"):
        load_data(str(described(tmp_path, {}, kind="segdcn.data.SegmentationData")))
