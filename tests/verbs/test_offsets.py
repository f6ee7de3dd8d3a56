"""`segdcn offsets`: pictures, page and numbers of any image; what is wrong is one line."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdcn import cli
from segdcn.layers import DeformableConv2d
from segdcn.task import SegmentationTask


def save(path, change=None, **settings):
    """Save a small network with random offsets as training does, after a change of its weights."""
    torch.manual_seed(0)
    names = ["background", "disc", "star"]
    palette = [[0, 0, 0], [230, 80, 70], [70, 140, 230]]
    task = SegmentationTask(
        3, names, palette, [0.5] * 3, [0.25] * 3, architecture="deeplab", encoder="resnet18", **settings
    )
    for layer in task.modules():
        if isinstance(layer, DeformableConv2d):
            nn.init.normal_(layer.offset_conv.weight, std=0.01)
    with torch.no_grad():
        change(task.network) if change is not None else None
    saved = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(task.hparams),
        "pytorch-lightning_version": "2.6.6",
    }
    task.on_save_checkpoint(saved)
    torch.save(saved, path)
    return task


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint and a picture whose sides are no multiples of the output stride."""
    folder = tmp_path_factory.mktemp("offsets")
    save(folder / "net.ckpt", deform_layers=2)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "street.png")
    return folder


@pytest.fixture
def run(files, tmp_path, capsys):
    """Call the verb; gives exit code and error lines."""

    def call(*rest, checkpoint="net.ckpt", image="street.png"):
        args = [str(files / checkpoint), str(files / image), "--output", str(tmp_path / "out"), *rest]
        code = cli.main(["offsets", *args])
        return code, capsys.readouterr().err.splitlines()

    return call


def test_points_given_once_or_more_are_drawn_and_measured(run, tmp_path):
    report = tmp_path / "report.json"
    code, errors = run("--point", "20,30", "69,89", "--point=0,0.4", "--json", str(report))
    assert (code, errors) == (0, [])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "street_sampling.png",
        "street_encoder.layer4.1.conv1.png",
        "street_encoder.layer4.1.conv2.png",
        "street.html",
    }
    result = json.loads(report.read_text())
    assert [(place["y"], place["x"]) for place in result["places"]] == [(20, 30), (69, 89), (0, 0.4)]
    assert list(result["layers"]) == ["encoder.layer4.1.conv1", "encoder.layer4.1.conv2"]
    assert all(place["effective_dilation"].keys() == result["layers"].keys() for place in result["places"])
    page = (tmp_path / "out" / "street.html").read_text()
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    assert [(place["y"], place["x"]) for place in data["places"]] == [(20, 30), (69, 89), (0, 0.4)]
    assert data["layers"][1]["size"] == [5, 6] and data["layers"][1]["output"]["stride"] == [16, 16]


def test_without_a_point_places_lie_in_what_is_predicted(run, tmp_path):
    report = tmp_path / "report.json"
    assert run("--json", str(report))[0] == 0
    found = [place["name"] for place in json.loads(report.read_text())["places"]]
    assert found and len(set(found)) == len(found)
    assert run("--class", found[-1], "--overwrite", "true", "--json", str(report))[0] == 0
    assert {place["name"] for place in json.loads(report.read_text())["places"]} == {found[-1]}


def test_nothing_is_overwritten_unless_asked(run, tmp_path):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "street.html"
    mine.write_text("mine")
    code, (line,) = run("--point", "1,1")
    assert code == 2 and "is not empty; choose another folder, or pass --overwrite true" in line
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--point", "70,3"], "the point 70,3 (y,x) lies outside"),
        (["--point", "-1,3"], "70x90 (height x width): 0,0 to 69,89"),
        (["--point", "12"], "point is '12'; expected y,x in pixels"),
        (["--class", "dics"], "knows no class 'dics'; did you mean disc?; its classes are background, disc, star"),
        (["--class", "disc", "--point", "1,1"], "give one of them"),
        (["--point", "1,1", "--group", "1"], "group is 1, but the network has 1"),
        (["--json", "/no/such/folder/x.json"], "must be a file in a folder that exists"),
    ],
)
def test_what_is_wrong_is_one_line(run, tmp_path, flags, message):
    code, (line,) = run(*flags)
    assert code == 2 and message in line
    assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_and_what_has_no_offsets_are_one_line(run, files, tmp_path):
    save(files / "plain.ckpt", deform_layers=0)
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 1}}, files / "foreign.ckpt")
    for settings, message in [
        ({"checkpoint": "none.ckpt"}, "there is no checkpoint"),
        ({"checkpoint": "street.png"}, "cannot be read as a checkpoint"),
        ({"checkpoint": "foreign.ckpt"}, "is not a checkpoint of segdcn"),
        ({"checkpoint": "plain.ckpt"}, "has no deformable layers"),
        ({"image": "none.png"}, "does not exist"),
        ({"image": "net.ckpt"}, "cannot be read as a picture"),
    ]:
        code, (line,) = run("--point", "1,1", **settings)
        assert code == 2 and message in line
    assert not (tmp_path / "out").exists()


def test_a_network_whose_offsets_are_no_numbers_is_one_line(run, files, tmp_path):
    # Finite, as all weights of a checkpoint have to be; what they give is not.
    save(
        files / "lost.ckpt",
        lambda network: network.encoder.layer4[1].conv2.offset_conv.weight.fill_(3e38),
        deform_layers=1,
    )
    code, (line,) = run("--point", "1,1", checkpoint="lost.ckpt")
    assert code == 2 and "the offsets of encoder.layer4.1.conv2 are infinite or NaN" in line
    assert not (tmp_path / "out").exists()


def test_a_class_that_is_known_but_not_found_is_one_line(run, files, tmp_path):
    save(files / "sure.ckpt", lambda network: network.segmentation_head[0].bias[1].fill_(1e4), deform_layers=1)
    code, (line,) = run("--class", "star", checkpoint="sure.ckpt")
    assert code == 2 and "finds no star in" in line and line.endswith("it finds disc")
