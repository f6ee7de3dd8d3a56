import json

import numpy as np
import pytest
from PIL import Image

from segdcn import cli
from segdcn.compare.examples import find
from segdcn.data import Shapes
from segdcn.errors import InvalidDataError, MissingFileError

CHANGED = {"val_00000": 10, "val_00001": 400, "val_00002": 0}  # pixels in which the last variant differs


@pytest.fixture
def data(tmp_path):
    assert cli.main(["data", "make-shapes", f"--output={tmp_path}/set", "--train=1", "--val=3", "--size=32"]) == 0
    return Shapes(str(tmp_path / "set"), crop_size=32)


@pytest.fixture
def predicted(tmp_path, records, data):
    """Write the predictions of the first seed; all variants see class 0 but for the last."""
    for record in records:
        run = tmp_path / record.facts["validation"]
        (run / "predictions").mkdir(parents=True)
        kept = {str(index): name for index, name in enumerate(CHANGED)} if record.seed == 0 else {}
        (run / "evidence.json").write_text(json.dumps({"predictions": kept}))
        for index, name in kept.items():
            ids = np.zeros(32 * 32, np.uint8)
            ids[: CHANGED[name] if record.variant == "deform_layers=3" else 0] = 2
            Image.fromarray(ids.reshape(32, 32)).save(run / "predictions" / f"{int(index):06d}.png")
    return tmp_path


def test_the_images_that_differ_most_come_first_and_equal_ones_not_at_all(predicted, plan, records, data):
    found = find(predicted, plan, records, data, 4)
    assert [example.name for example in found] == ["val_00001", "val_00000"]
    assert found[0].differ == 400 / 32**2
    assert list(found[0].predictions) == ["deform_layers=0", "deform_layers=1", "deform_layers=3"]
    assert (found[0].predictions["deform_layers=3"] == 2).sum() == 400
    assert found[0].image.shape == (32, 32, 3)
    assert len(find(predicted, plan, records, data, 1)) == 1


def test_one_variant_alone_differs_from_nothing(predicted, plan, records, data):
    assert find(predicted, plan, records[:1], data, 4) == []


def test_data_that_were_changed_since_are_refused(predicted, plan, records, data):
    data.samples("val")[0] = data.samples("val")[1]
    with pytest.raises(InvalidDataError, match="image 0 of the validation set is not val_00000 any more"):
        find(predicted, plan, records, data, 4)


def test_predictions_that_are_gone_are_named(predicted, plan, records, data):
    gone = predicted / records[1].facts["validation"] / "predictions" / "000001.png"
    gone.unlink()
    with pytest.raises(MissingFileError, match="000001.png is gone"):
        find(predicted, plan, records, data, 4)
    (gone.parents[1] / "evidence.json").unlink()
    with pytest.raises(MissingFileError, match="is gone, with the predictions"):
        find(predicted, plan, records, data, 4)
