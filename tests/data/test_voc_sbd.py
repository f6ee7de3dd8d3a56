"""VOC and SBD become trainaug, and nothing of either is lost or written over."""

import numpy as np
import pytest
import sbd
from PIL import Image
from scipy.io import savemat

from segdcn import cli
from segdcn.data import VOC
from segdcn.data.check import check


@pytest.fixture
def trees(tmp_path):
    return sbd.write(tmp_path)


def prepare(trees, *flags):
    return cli.main(["data", "prepare", "voc-sbd", *map(str, trees), *flags])


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_trainaug_is_sbd_and_voc_train_without_voc_val(trees, capsys):
    before = snapshot(trees[0]) | snapshot(trees[1])
    assert prepare(trees) == 0
    data = VOC(str(trees[0]), train_split="trainaug", batch_size=2, num_workers=0, crop_size=32)
    assert [sample.name for sample in data.samples("trainaug")] == ["both", "only_sbd", "only_sbd_val", "only_voc"]
    dataset = data.eval_dataset("trainaug")
    for index, expected in enumerate([(1, 255), (2, 0), (2, 0), (1, 255)]):  # VOC's labels where VOC has any
        assert (dataset.read(index)[1] == sbd.labels(*expected)).all()
    assert {path: path.read_bytes() for path in before} == before
    assert check(data, ["trainaug", "val"]).problems == []
    said = capsys.readouterr().out
    assert "trainaug: 4 images, labels of VOC for 2 and of SBD for 2" in said
    assert "the official data gives 10,582" in said and "SBD train 3 (8,498)" in said


def test_made_labels_are_palette_pictures_in_voc_colours(trees):
    prepare(trees)
    with Image.open(trees[0] / "SegmentationClassAug/only_sbd.png") as made:
        assert made.mode == "P" and made.getpalette("RGB")[6:9] == list(VOC.palette[2])


def test_the_official_number_is_said_without_a_note(trees, capsys, monkeypatch):
    monkeypatch.setattr("segdcn.data.voc_sbd.OFFICIAL_TRAINAUG", 4)
    prepare(trees)
    assert "note" not in capsys.readouterr().out


def test_nothing_is_written_over_unless_told_to(trees, capsys):
    assert prepare(trees) == 0
    (trees[0] / "SegmentationClassAug/only_sbd.png").write_bytes(b"mine")
    before = snapshot(trees[0])
    capsys.readouterr()
    assert prepare(trees) == 2
    assert "SegmentationClassAug exists already; pass --overwrite true" in capsys.readouterr().err
    assert snapshot(trees[0]) == before
    assert prepare(trees, "--overwrite", "true") == 0
    assert (VOC(str(trees[0])).eval_dataset("trainaug").read(1)[1] == sbd.labels(2, 0)).all()


def not_a_struct(path):
    savemat(path, {"other": np.zeros(3)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda voc, sbd_: (sbd_ / "cls/only_sbd.mat").unlink(), "only_sbd.jpg has no labels: there is neither"),
        (lambda voc, sbd_: (voc / "JPEGImages/only_sbd.jpg").unlink(), "only_sbd.jpg does not exist, but the lists"),
        (lambda voc, sbd_: (sbd_ / "cls/only_sbd.mat").write_bytes(b"MATLAB 5.0"), "only_sbd.mat is no label file"),
        (lambda voc, sbd_: not_a_struct(sbd_ / "cls/only_sbd.mat"), "only_sbd.mat is no label file"),
        (lambda voc, sbd_: sbd.save_mat(sbd_ / "cls/only_sbd.mat", sbd.labels(21, 0)), "holds the labels 0 to 21"),
        (lambda voc, sbd_: sbd.save_mat(sbd_ / "cls/only_sbd.mat", sbd.labels(2, 0).T), "labels of shape (16, 12)"),
        (lambda voc, sbd_: (sbd_ / "val.txt").unlink(), "does not hold SBD: expected cls, train.txt, val.txt"),
        (lambda voc, sbd_: (voc / "ImageSets/Segmentation/val.txt").unlink(), "no split 'val'"),
        (lambda voc, sbd_: (sbd_ / "val.txt").write_text("../../x\n"), "lies outside"),
    ],
)
def test_what_is_missing_or_damaged_is_named_and_no_list_is_written(trees, spoil, message, capsys):
    spoil(*trees)
    assert prepare(trees) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (trees[0] / "ImageSets/Segmentation/trainaug.txt").exists()


def test_a_folder_above_sbd_gets_the_right_one_proposed(trees, tmp_path, capsys):
    (tmp_path / "benchmark_RELEASE").mkdir()
    (tmp_path / "sbd").rename(tmp_path / "benchmark_RELEASE/dataset")
    assert prepare((trees[0], tmp_path / "benchmark_RELEASE")) == 2
    assert f"give {tmp_path}/benchmark_RELEASE/dataset" in capsys.readouterr().err


def test_the_split_trainaug_without_its_labels_names_the_verb_that_makes_them(trees, capsys):
    (trees[0] / "ImageSets/Segmentation/trainaug.txt").write_text("both\n")
    with pytest.raises(FileNotFoundError, match="SegmentationClassAug does not exist.*segdcn data prepare voc-sbd"):
        VOC(str(trees[0])).samples("trainaug")
