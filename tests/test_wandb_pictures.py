import json

import numpy as np
import pytest
from PIL import Image

from segdcn.wandb_pictures import Overlay, drawn_images, overlay_images


def overlay(height, width, name="a"):
    labels = np.arange(height * width).reshape(height, width).astype(np.uint8)
    return Overlay(name, np.repeat(labels[..., None], 3, 2), labels, 255 - labels)


def test_a_reduced_picture_has_means_and_its_maps_only_ids_that_were_there():
    """4x8 to 2x4: a pixel covers 2x2, whose ids are i, i+1, i+8, i+9 with the mean i + 4.5."""
    found = overlay(4, 8).reduced(4)
    first = np.array([[0, 2, 4, 6], [16, 18, 20, 22]])
    assert np.abs(found.pixels[..., 0] - (first + 4.5)).max() <= 0.5
    offset = found.labels - first
    assert (offset == offset[0, 0]).all() and offset[0, 0] in (0, 1, 8, 9)
    assert np.array_equal(found.prediction, 255 - found.labels)


def test_what_is_small_enough_stays_as_it_is():
    whole = overlay(4, 8)
    assert whole.reduced(8) is whole


@pytest.fixture
def written(monkeypatch):
    """The files of W&B's pictures, without a run."""
    return lambda media: np.asarray(Image.open(media._path))


def test_pictures_of_a_list_get_one_size_with_an_ignored_margin(written):
    """W&B shows all in the size of the first."""
    low, high = overlay_images([overlay(4, 8), overlay(6, 5)], ["one", "two"])
    assert written(low).shape == written(high).shape == (6, 8, 3)
    assert written(low)[4:].min() > 200  # white, but for the JPEG
    mask = written(high._masks["ground_truth"])
    assert np.array_equal(mask[:, :5], overlay(6, 5).labels) and (mask[:, 5:] == 255).all()
    drawings = drawn_images({"low": Image.new("RGB", (8, 4)), "high": Image.new("RGB", (5, 6))})
    assert [written(one).shape for one in drawings] == [(6, 8, 3)] * 2


def test_masks_keep_every_id_and_the_classes_their_names(written):
    """Ids above 127 too: W&B turns a mask into signed bytes on its way."""
    (image,) = overlay_images([overlay(16, 16)], [f"class {index}" for index in range(150)])
    assert np.array_equal(written(image._masks["ground_truth"]).ravel(), np.arange(256))
    names = image._masks["prediction"]._val["class_labels"]
    assert names[149] == "class 149" and names[255] == "ignored" and json.dumps(names)
