"""Shapes: repeatable, in VOC's layout, and told apart by form, not by colour."""

import json

import numpy as np
import pytest
import torch

from segdcn.data import Shapes, collage, shapes
from segdcn.data.files import read_id_map
from segdcn.data.outlines import FORMS, bend, outline
from segdcn.errors import InvalidDataError, UserValueError


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def pictures(split, count, size=96, deformation=0.5, seed=0):
    return [collage.draw(np.random.default_rng((seed, split, index)), size, deformation) for index in range(count)]


def miou(confusion):
    hits = confusion.diagonal()
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


@pytest.fixture(scope="module")
def both_splits():
    return pictures(0, 400), pictures(1, 120)


# The same settings, the same files


def test_the_same_settings_give_the_same_files_byte_for_byte(tmp_path):
    for name in ("one", "two"):
        shapes.make(tmp_path / name, train=3, val=2, size=48, seed=7)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_more_pictures_leave_the_first_ones_as_they_are(tmp_path):
    shapes.make(tmp_path / "few", train=2, val=1, size=48)
    shapes.make(tmp_path / "many", train=4, val=3, size=48)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    kept = [path for path in few if path.suffix == ".png"]
    assert len(kept) == 9 and all(few[path] == many[path] for path in kept)


@pytest.mark.parametrize("change", [{"seed": 1}, {"deformation": 0.9}])
def test_another_setting_gives_other_pictures(change):
    (usual,), (other,) = pictures(0, 1, 48), pictures(0, 1, 48, **change)
    assert (usual.image != other.image).any()


# What lies in the folder


def test_the_folder_is_a_data_set_with_instance_maps(shapes_root):
    data = Shapes(str(shapes_root), num_workers=0, batch_size=4, crop_size=64, scale_range=(1, 1))
    data.setup("fit")
    assert len(data.samples("train")) == 24 and len(data.samples("val")) == 6
    for index, sample in enumerate(data.samples("val")):
        image, labels = data.eval_dataset("val").read(index)
        instances = data.read_instances(sample)
        assert image.shape == (64, 64, 3) and labels.shape == instances.shape == (64, 64)
        assert ((instances > 0) == (labels > 0)).all()
        for number in np.unique(instances[instances > 0]):
            assert len(np.unique(labels[instances == number])) == 1
    batch = next(iter(data.train_dataloader()))
    assert batch["labels"].dtype == torch.int64 and int(batch["labels"].max()) < data.num_classes


def test_the_record_holds_settings_and_class_shares(shapes_root):
    record = json.loads((shapes_root / "dataset.json").read_text())
    assert record["settings"] == {"train": 24, "val": 6, "size": 64, "deformation": 0.5, "seed": 0}
    assert record["class_names"] == ["background", *FORMS] and record["version"] == shapes.VERSION
    assert sum(record["pixel_shares"]["train"].values()) == pytest.approx(1, abs=1e-3)


def test_an_interrupted_make_leaves_no_record(tmp_path):
    shapes.make(tmp_path, train=2, val=1, size=48)

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.make(tmp_path, train=2, val=1, size=48, progress=stop)
    with pytest.raises(InvalidDataError, match="is incomplete"):
        Shapes(str(tmp_path)).setup("fit")


@pytest.mark.parametrize("record", ["{", "[]", '{"class_names": ["background", "cat"]}'])
def test_a_record_of_another_kind_is_refused(tmp_path, record):
    shapes.make(tmp_path, train=1, val=1, size=48)
    (tmp_path / "dataset.json").write_text(record)
    with pytest.raises(InvalidDataError, match=r"dataset.json (has the classes background, cat|is not what)"):
        Shapes(str(tmp_path)).setup("validate")


# Form and nothing else


def test_background_everywhere_scores_what_the_documentation_says(both_splits):
    labels = np.stack([picture.labels for picture in both_splits[1]])
    assert 0.115 < (labels == 0).mean() / 7 < 0.125


@pytest.mark.parametrize("vote", ["majority", "balanced"])
def test_a_colour_classifier_stays_below_an_miou_of_a_fifth(both_splits, vote):
    """Each of 16x16x16 colours votes for a class: the most frequent there, or the most over-represented."""
    train, val = both_splits
    counts = np.zeros((16**3, 7), np.int64)
    confusion = np.zeros((7, 7), np.int64)

    def bins(picture):
        return (picture.image.astype(np.int64) // 16 @ [256, 16, 1]).ravel()

    for picture in train:
        np.add.at(counts, (bins(picture), picture.labels.ravel()), 1)
    score = counts / counts.sum(axis=0) if vote == "balanced" else counts
    lookup = score.argmax(axis=1)
    for picture in val:
        np.add.at(confusion, (picture.labels.ravel(), lookup[bins(picture)]), 1)
    assert miou(confusion) < 0.20


def test_classes_cover_about_equal_shares(both_splits):
    """Every form has the same area at one size; 280 pictures leave some chance."""
    labels = np.concatenate([[picture.labels for picture in split] for split in both_splits])
    shares = np.bincount(labels.ravel(), minlength=7)[1:] / labels.size
    assert shares.min() > 0.6 * shares.mean() and shares.max() < 1.5 * shares.mean()


def test_objects_differ_in_size_by_a_factor_of_four(both_splits):
    sides = [np.sqrt((picture.instances == number).sum()) for picture in both_splits[0] for number in (1, 2)]
    smallest, largest = np.quantile(sides, [0.02, 0.98])
    assert largest > 3.5 * smallest and collage.LARGEST >= 4 * collage.SMALLEST


@pytest.mark.parametrize("form", FORMS)
def test_a_form_keeps_its_area_however_it_is_deformed(form):
    rng = np.random.default_rng(0)

    def area(rings):
        x = [np.roll(ring, -1, axis=0) for ring in rings]
        return sum(0.5 * np.sum(r[:, 0] * n[:, 1] - r[:, 1] * n[:, 0]) for r, n in zip(rings, x, strict=True))

    assert area(outline(form)) == pytest.approx(1)
    areas = [area(bend(outline(form), rng, 1.0)) for _ in range(50)]
    assert min(areas) > 0.85 and max(areas) < 1.15


def test_without_deformation_an_outline_only_turns():
    (turned,) = bend(outline("star"), np.random.default_rng(0), 0.0)
    assert np.allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(outline("star")[0], axis=1))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"size": 31}, "size is 31; expected 32 pixels or more"),
        ({"deformation": 1.1}, "deformation is 1.1; expected a number from 0 to 1"),
        ({"train": 0}, "train is 0 and val is 1; expected 1 picture or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
    ],
)
def test_a_setting_out_of_range_is_refused(tmp_path, setting, message):
    with pytest.raises(UserValueError, match=message):
        shapes.make(tmp_path, **{"train": 1, "val": 1} | setting)


def test_evaluation_batches_carry_instances_and_sizes_before_padding(shapes_root):
    data = Shapes(str(shapes_root), num_workers=0, eval_batch_size=2, eval_limit=2, size_divisor=48, crop_size=48)
    (batch,) = data.val_dataloader()
    assert batch["size"] == [(64, 64)] * 2 and batch["instances"].shape == batch["labels"].shape == (2, 96, 96)
    inside = batch["labels"] != 255
    assert (inside.sum((1, 2)) == 64 * 64).all()
    assert ((batch["instances"] > 0) == ((batch["labels"] > 0) & inside)).all()
    data.with_instances = False
    (batch,) = data.val_dataloader()
    assert "instances" not in batch


def test_a_prediction_is_written_as_ids_that_can_be_read_back(shapes_root, tmp_path):
    data = Shapes(str(shapes_root))
    labels = data.read_labels(data.samples("val")[0])
    path = data.write_prediction(tmp_path, "val", "val_00000", labels)
    assert path == tmp_path / "val_00000.png" and (read_id_map(path) == labels).all()
