"""`segdcn export` on the command line: what it writes, what it refuses, when it leaves nothing."""

import copy
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import segdcn
from segdcn import cli
from segdcn.export.formats import FORMATS
from segdcn.export.safetensors import write_folder
from segdcn.verbs import export as verb


def export(checkpoint, *flags):
    return cli.main(["export", str(checkpoint), *map(str, flags)])


@pytest.fixture
def run_folder(checkpoint, tmp_path):
    """A copy of the checkpoint where it may be written beside."""
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "best.ckpt"
    path.write_bytes(checkpoint.read_bytes())
    return path


@pytest.fixture
def data(tmp_path):
    """The YAML of two pictures of the checkpoint's classes."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / "set" / folder / "val").mkdir(parents=True)
    for name in ("one", "two"):
        image, labels = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.integers(0, 3, (40, 50), np.uint8)
        Image.fromarray(image).save(tmp_path / "set" / "images" / "val" / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / "set" / "labels" / "val" / f"{name}.png")
    described = {
        "class_path": "segdcn.data.Folder",
        "init_args": {
            "root": str(tmp_path / "set"),
            "classes": {"sky": [1, 2, 3], "road": [4, 5, 6], "car": [7, 8, 9]},
            "images": "images/{split}/{name}.png",
        },
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return tmp_path / "data.yaml"


def test_it_writes_beside_the_checkpoint_and_the_file_opens(run_folder, tmp_path, capsys):
    assert export(run_folder, "--format=safetensors", f"--json={tmp_path / 'a.json'}") == 0
    place = run_folder.with_name("best-weights")
    report, said = json.loads((tmp_path / "a.json").read_text()), capsys.readouterr().out
    assert report["output"] == str(place) and str(place) in said
    assert [one["shape"] for one in report["comparisons"]] == [[1, 3, 160, 160], [3, 3, 80, 128], [1, 3, 144, 64]]
    assert all(one["difference"] == 0 for one in report["comparisons"])
    assert report["comparisons"][0]["input"] == "drawn by segdcn"
    assert report["weights_sha256"] == segdcn.load(place).description.weights_sha256
    image = np.random.default_rng(0).integers(0, 256, (30, 45, 3), np.uint8)
    np.testing.assert_array_equal(segdcn.load(place).predict(image), segdcn.load(run_folder).predict(image))
    assert segdcn.load(place).network is not None


def test_a_file_that_differs_is_not_left_and_the_exit_code_is_1(run_folder, monkeypatch, capsys):
    def damaged(network, description, path):
        network = copy.deepcopy(network)
        with torch.no_grad():
            network.segmentation_head[0].bias[1] += 0.01
        write_folder(network, description, path)

    monkeypatch.setitem(FORMATS, "safetensors", FORMATS["safetensors"]._replace(write=damaged))
    assert export(run_folder, "--format=safetensors", f"--json={run_folder.parent / 'report.json'}") == 1
    said = capsys.readouterr().out
    assert "best-weights was not written" in said and "differs" in said
    assert json.loads((run_folder.parent / "report.json").read_text())["output"] is None
    assert sorted(path.name for path in run_folder.parent.iterdir()) == ["best.ckpt", "report.json"]


def test_an_error_leaves_nothing_and_the_earlier_export_as_it_was(run_folder, monkeypatch):
    assert export(run_folder, "--format=safetensors") == 0
    before = segdcn.load(run_folder.with_name("best-weights")).description

    def failing(network, description, path):
        path.mkdir()
        raise OSError("disk full")

    monkeypatch.setitem(FORMATS, "safetensors", FORMATS["safetensors"]._replace(write=failing))
    assert export(run_folder, "--format=safetensors", "--overwrite=true") == cli.EXIT_UNEXPECTED
    assert segdcn.load(run_folder.with_name("best-weights")).description == before
    assert sorted(path.name for path in run_folder.parent.iterdir()) == ["best-weights", "best.ckpt"]


def test_nothing_is_overwritten_unless_told_and_then_only_exports(run_folder, tmp_path, capsys):
    place = tmp_path / "out"
    flags = ("--format=safetensors", f"--output={place}")
    assert export(run_folder, *flags) == 0
    assert export(run_folder, *flags) == cli.EXIT_USER_ERROR
    assert "exists; choose another --output, or pass --overwrite true" in capsys.readouterr().err
    assert export(run_folder, *flags, "--overwrite=true") == 0
    (place / "thesis.tex").write_text("years of work")
    assert export(run_folder, *flags, "--overwrite=true") == cli.EXIT_USER_ERROR
    assert "is no earlier export of this format" in capsys.readouterr().err
    assert (place / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=onnx", "--output=a.pt2"], "a file of this format ends in .onnx"),
        (["--format=program", "--output=no/folder/a.pt2"], "is not a folder that can be written to"),
        (["--format=onnx", "--device=cuda"], "device is cuda, but onnx is for any"),
        (["--format=tflite"], "tflite"),
        (["--root=x"], "say by data which YAML describes it"),
        (["--image=missing.png"], "missing.png does not exist"),
        (["--json=no/folder/a.json"], "json is no/folder/a.json"),
        (["--half=int8"], "int8"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run_folder, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(run_folder.parent)
    assert export(run_folder, *flags) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert [path.name for path in run_folder.parent.iterdir()] == ["best.ckpt"]


def test_a_mistyped_checkpoint_is_what_is_said(tmp_path, capsys):
    assert export(tmp_path / "typo" / "best.ckpt") == cli.EXIT_USER_ERROR
    assert f"there is no {tmp_path / 'typo' / 'best.ckpt'}" in capsys.readouterr().err


def test_half_weights_take_half_the_space_and_the_change_is_told(run_folder, data, tmp_path, capsys):
    flags = ("--format=safetensors", f"--json={tmp_path / 'a.json'}")
    assert export(run_folder, *flags) == 0
    full = (run_folder.with_name("best-weights") / "model.safetensors").stat().st_size
    assert export(run_folder, *flags, "--half=bfloat16", "--overwrite=true") == 0
    assert (run_folder.with_name("best-weights") / "model.safetensors").stat().st_size < 0.52 * full
    assert "of the picture's labels change" in capsys.readouterr().out
    assert 0 < json.loads((tmp_path / "a.json").read_text())["half"]["labels_changed"] < 0.1

    assert export(run_folder, *flags, "--half=float16", "--overwrite=true", f"--data={data}") == 0
    assert "mIoU 0." in capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["comparisons"][0]["input"] == "one.png"
    assert report["half"]["mIoU_float16"] == pytest.approx(report["half"]["mIoU_float32"], abs=0.02)


def test_the_mean_iou_is_that_of_all_pixels(run_folder, data):
    described = verb.load_data(str(data))
    predictor = segdcn.load(run_folder)
    labels = [described.eval_dataset("val").read(index) for index in range(2)]
    found = np.concatenate([predictor.predict(image).ravel() for image, _ in labels])
    truth = np.concatenate([label.ravel() for _, label in labels])
    expected = np.mean([((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum() for c in range(3)])
    assert verb._mean_ious(described, [predictor])[0] == pytest.approx(expected)


def test_other_classes_are_refused(run_folder, data, capsys):
    content = yaml.safe_load(data.read_text())
    content["init_args"]["classes"].pop("car")
    data.write_text(yaml.safe_dump(content, sort_keys=False))
    assert export(run_folder, f"--data={data}") == cli.EXIT_USER_ERROR
    assert "has the classes sky, road, but the network was trained for sky, road, car" in capsys.readouterr().err


def test_the_picture_comes_from_the_run_s_data_where_it_is_still_there(run_folder, data):
    config = run_folder.parents[1] / "config.yaml"
    config.write_text(yaml.safe_dump({"data": yaml.safe_load(data.read_text())}))
    assert verb._picture(None, None, run_folder)[1] == "one.png"
    content = yaml.safe_load(data.read_text())
    content["class_path"] = "antigravity.Data"  # not of segdcn: it could be anything that a stranger's run names
    config.write_text(yaml.safe_dump({"data": content}, sort_keys=False))
    assert verb._picture(None, None, run_folder)[1] == "drawn by segdcn"
    config.write_text("data: [")
    assert verb._picture(None, None, run_folder)[1] == "drawn by segdcn"


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        export("--help")
    assert stopped.value.code == 0
    assert "segdcn export runs/" in capsys.readouterr().out
