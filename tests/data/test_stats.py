"""Numbers that can be counted by hand."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from segdcn import cli
from segdcn.data import Folder
from segdcn.data.class_weights import balanced_weights
from segdcn.data.stats import measure
from segdcn.task import SegmentationTask

CLASSES = {"ground": [0, 0, 0], "tree": [0, 200, 0], "house": [200, 0, 0], "none": [0, 0, 200]}


@pytest.fixture
def root(tmp_path):
    """Two pictures of 8 pixels: ground 4 and tree 4; ground 3, house 1 and 4 to ignore."""
    labels = {"a": [[0, 0, 1, 1], [0, 0, 1, 1]], "b": [[0, 0, 0, 2], [255, 255, 255, 255]]}
    for name, ids in labels.items():
        image = np.zeros((2, 4, 3), np.uint8)
        image[..., 0] = 255 if name == "a" else 0
        image[..., 1] = 51
        for folder, array in {"images": image, "labels": np.array(ids, np.uint8)}.items():
            (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / "train" / f"{name}.png")
    description = {
        "class_path": "segdcn.data.Folder",
        "init_args": {"root": str(tmp_path), "classes": CLASSES, "images": "images/{split}/{name}.png"},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_colours_and_classes_are_counted_over_all_pixels(root, num_workers):
    data = Folder(str(root), CLASSES, images="images/{split}/{name}.png", num_workers=num_workers)
    stats = measure(data, "train")
    assert stats.mean.tolist() == pytest.approx([0.5, 0.2, 0.0]) and stats.std.tolist() == pytest.approx([0.5, 0, 0])
    assert stats.pixels.tolist() == [7, 4, 1, 0] and stats.ignored == 4
    assert stats.images.tolist() == [2, 1, 1, 0]
    # Pixels with a class in the images that hold it: 8 + 4, 8, 4.
    assert stats.frequencies.tolist() == pytest.approx([7 / 12, 4 / 8, 1 / 4, 0])
    assert stats.weights == pytest.approx([0.5 / (7 / 12), 1, 2, 1], abs=1e-4)


@pytest.mark.parametrize("resize", [None, (1, 2)])
def test_the_weights_are_those_that_training_computes(root, resize):
    """Also where pictures and labels are read at another size."""
    data = Folder(str(root), CLASSES, images="images/{split}/{name}.png", num_workers=0, resize=resize)
    assert measure(data, "train").weights == balanced_weights(data)


def test_the_verb_prints_a_line_that_the_model_takes(root, capsys):
    assert cli.main(["data", "stats", str(root / "data.yaml"), "--json", str(root / "stats.json")]) == 0
    said = capsys.readouterr().out
    (pasted,) = [line for line in said.splitlines() if "class_weights:" in line]
    weights = yaml.safe_load(pasted)["class_weights"]
    task = SegmentationTask(num_classes=4, encoder="resnet18", class_weights=weights)
    assert task.hparams["class_weights"] == weights == [0.8571, 1.0, 2.0, 1.0]
    assert "mean: [0.5, 0.2, 0.0]" in said and "median frequency balancing" in said
    result = json.loads((root / "stats.json").read_text())
    assert result["class_weights"] == weights and result["classes"]["tree"]["images"] == 1
    assert (result["split"], result["ignored_share"]) == ("train", 0.25)


def test_a_damaged_file_ends_it_in_one_line(root, capsys):
    (root / "labels/train/b.png").write_bytes(b"")
    for num_workers in (0, 1):
        assert cli.main(["data", "stats", str(root / "data.yaml"), f"--num_workers={num_workers}"]) == 2
        error = capsys.readouterr().err
        assert "b.png cannot be read as a picture (it is empty)" in error and error.count("\n") == 1
