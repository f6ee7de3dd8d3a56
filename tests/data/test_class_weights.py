import numpy as np
import pytest
from PIL import Image

from segdcn.data import Folder
from segdcn.data.class_weights import balanced_weights, median_frequency
from segdcn.errors import InvalidDataError


def test_the_weights_by_hand():
    """Frequencies 0.8, 0.2 and 0.1 (of 100 pixels): the median is 0.2."""
    assert median_frequency([80, 20, 10], [100, 100, 100]) == [0.25, 1.0, 2.0]


def test_a_class_is_compared_with_the_pictures_that_hold_it():
    """10 of 100 pixels of the one picture with it, and 10 of 1,000 of all: the first is what counts."""
    assert median_frequency([900, 500, 10], [1000, 1000, 100])[2] == 5.0


def test_weights_have_limits_and_a_class_that_never_occurs_gets_one():
    assert median_frequency([9000, 100, 1, 0], [10000, 10000, 10000, 0]) == [0.1, 1.0, 10.0, 1.0]
    assert median_frequency([0, 0], [0, 0]) == [1.0, 1.0]


@pytest.fixture
def folder(tmp_path):
    """Three training pictures of 10x10: all 0; half 0, half 1; a fifth 1, the rest ignored."""
    maps = {name: np.zeros((10, 10), np.uint8) for name in ("a", "b", "c")}
    maps["b"][5:] = 1
    maps["c"][:2], maps["c"][2:] = 1, 255
    for name, labels in maps.items():
        Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / f"{name}_labels.png")
    (tmp_path / "train.txt").write_text("".join(f"{name}.png {name}_labels.png\n" for name in maps))
    return tmp_path


def data(folder, **settings):
    return Folder(
        str(folder), classes={"sky": [0, 0, 0], "road": [1, 1, 1]}, lists="{split}.txt", crop_size=32, **settings
    )


@pytest.mark.parametrize("num_workers", [0, 3])
def test_every_training_label_is_counted_once(folder, num_workers):
    """Sky is 150 of 200 pixels, road 70 of 120 (the ignored ones left out)."""
    seen = []
    weights = balanced_weights(data(folder, num_workers=num_workers), progress=lambda: seen.append(1))
    median = (150 / 200 + 70 / 120) / 2
    assert weights == pytest.approx([median / (150 / 200), median / (70 / 120)], rel=1e-3)
    assert len(seen) == 3


def test_a_limit_of_the_training_set_counts(folder):
    assert balanced_weights(data(folder, train_limit=1)) == [1.0, 1.0]


def test_a_label_that_is_no_class_is_refused(folder):
    Image.fromarray(np.full((10, 10), 7, np.uint8)).save(folder / "b_labels.png")
    with pytest.raises(InvalidDataError, match="b_labels.png holds the number 7"):
        balanced_weights(data(folder))
