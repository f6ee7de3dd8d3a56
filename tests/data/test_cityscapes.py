"""The official tree, read as it is."""

import shutil

import numpy as np
import pytest
from PIL import Image

from segdcn.data import Cityscapes
from segdcn.data.cityscapes import CLASS_OF_ID, CLASSES, ID_OF_CLASS, LABELS
from segdcn.errors import InvalidDataError, MissingFileError


@pytest.fixture
def root(test_data):
    return test_data / "cityscapes"


def test_frames_of_all_cities_are_listed_with_labels_and_instances(root):
    data = Cityscapes(str(root))
    train, val = data.samples("train"), data.samples("val")
    assert (len(train), len(val)) == (4, 1)
    assert train[0].name == "aachen_000000_000019" and train[0].instances.is_file()


def test_labels_are_the_19_classes_and_255(root):
    data = Cityscapes(str(root))
    image, labels = data.eval_dataset("val").read(0)
    assert image.shape == (1024, 2048, 3) and labels.shape == (1024, 2048)
    assert set(np.unique(labels).tolist()) <= {*range(19), 255}
    with Image.open(data.samples("val")[0].labels) as stored:
        ids = np.asarray(stored)
    assert (labels[ids == 7] == 0).all() and (labels[ids == 26] == 13).all() and (labels[ids == 4] == 255).all()


def test_ids_and_classes_are_each_others_inverse():
    assert len(LABELS) == 34 and [label.id for label in LABELS] == list(range(34))
    assert len(CLASSES) == 19
    assert [CLASS_OF_ID[i] for i in ID_OF_CLASS] == list(range(19))
    assert Cityscapes.class_names[0] == "road" and Cityscapes.class_names[18] == "bicycle"


def test_instances_are_objects_only(root):
    data = Cityscapes(str(root))
    sample = data.samples("val")[0]
    instances, labels = data.read_instances(sample), data.read_labels(sample)
    assert set(np.unique(instances[instances > 0] // 1000).tolist()) <= {*range(24, 34)}
    cars = instances[labels == 13]
    assert (cars // 1000 == 26).mean() > 0.9


def test_coarse_annotation_trains_and_fine_validates(root, tmp_path):
    shutil.copytree(root, tmp_path / "set", symlinks=False)
    fine = tmp_path / "set" / "gtFine" / "train" / "aachen"
    coarse = tmp_path / "set" / "gtCoarse" / "train" / "aachen"
    coarse.mkdir(parents=True)
    for path in fine.glob("*_labelIds.png"):
        shutil.copy(path, coarse / path.name.replace("gtFine", "gtCoarse"))
    data = Cityscapes(str(tmp_path / "set"), coarse=True)
    assert all("gtCoarse" in str(sample.labels) for sample in data.samples("train"))
    assert all("gtFine" in str(sample.labels) for sample in data.samples("val"))


def test_what_is_wrong_with_a_tree_is_said(root, tmp_path):
    with pytest.raises(MissingFileError, match="leftImg8bit_trainvaltest.zip"):
        Cityscapes(str(tmp_path)).samples("train")
    with pytest.raises(MissingFileError, match="no split 'training'; splits there: train, val"):
        Cityscapes(str(root)).samples("training")
    with pytest.raises(MissingFileError, match="gtCoarse.zip"):
        Cityscapes(str(root), coarse=True).samples("train")


def test_ids_that_are_no_labels_are_refused(root, tmp_path):
    shutil.copytree(root, tmp_path / "set")
    data = Cityscapes(str(tmp_path / "set"))
    sample = data.samples("val")[0]
    Image.fromarray(np.full((1024, 2048), 77, np.uint8)).save(sample.labels)
    with pytest.raises(InvalidDataError, match="holds the id 77; expected labelIds"):
        data.read_labels(sample)
    shutil.copy(sample.instances, sample.labels)
    with pytest.raises(InvalidDataError, match="instanceIds have their own files"):
        data.read_labels(sample)
