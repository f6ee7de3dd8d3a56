"""`segdcn data check`: a line for every problem, a total, and an exit code."""

import json
import os

import numpy as np
import pytest
from damage import CASES, make
from PIL import Image

from segdcn import cli
from segdcn.data import shapes
from segdcn.data.check import Report


def case(kind, name):
    return next(each for each in CASES if (each.kind, each.name) == (kind, name))


def check(capsys, data, *flags):
    capsys.readouterr()
    code = cli.main(["data", "check", str(data), *flags])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_a_sound_set_gives_shares_and_exit_code_0(tmp_path, capsys):
    data = make(case("as it should be", "any letter"), tmp_path)
    code, lines, _ = check(capsys, data)
    assert code == 0 and lines[-1] == "no problems in 6 images of 2 splits"
    assert any("background" in line for line in lines) and any("train (4 images)" in line for line in lines)


def test_every_problem_is_a_line_and_counted_whatever_reads(tmp_path, capsys):
    """Two files of one sample, a missing file, a value in val, and one picture in both splits."""
    data = make(case("missing file", "labels"), tmp_path)
    root = tmp_path / "my sét"
    (root / "JPEGImages/t0.jpg").write_bytes(b"")
    (root / "SegmentationClass/t0.png").write_bytes(b"PNG")
    Image.fromarray(np.full((48, 64), 99, np.uint8)).save(root / "SegmentationClass/v0.png")
    with (root / "ImageSets/Segmentation/val.txt").open("a") as file:
        file.write("t3\n")
    code, lines, _ = check(capsys, data, "--json", str(tmp_path / "report.json"))
    assert code == 1 and lines[-1] == "5 problems in 7 images of 2 splits"
    assert [line for line in lines if line.startswith("  /")] == [
        f"  {root}/JPEGImages/t2.jpg has no label file; expected {root}/SegmentationClass/t2.png",
        f"  {root}/JPEGImages/t0.jpg cannot be read as a picture (it is empty); replace the file",
        f"  {root}/SegmentationClass/t0.png cannot be read as a picture (cannot identify image file); replace the file",
        f"  {root}/SegmentationClass/v0.png holds the label 99 in 3072 pixels; "
        "expected 0 to 20, or 255 for pixels to ignore",
        f"  {root}/JPEGImages/t3.jpg is in the splits 'train' and 'val'",
    ]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["num_problems"] == 5 and report["counts"]["unreadable"] == 2
    assert report["splits"]["val"]["samples"] == 3
    shares = report["splits"]["val"]["pixel_shares"].values()
    assert sum(shares) + report["splits"]["val"]["ignored_share"] == pytest.approx(1)
    assert report["problems"][0] == {
        "kind": "unreadable",
        "split": "train",
        "file": f"{root}/JPEGImages/t0.jpg",
        "message": lines[lines.index("files that cannot be read: 2") + 1].strip(),
    }
    assert check(capsys, data, "--num_workers", "2")[1][-12:] == lines[-12:]


def test_files_are_read_by_as_many_processes_as_the_yaml_says(tmp_path, monkeypatch):
    data = make(case("as it should be", "spaces"), tmp_path)
    data.write_text(data.read_text().replace("num_workers: 0", "num_workers: 3"))
    seen = []
    monkeypatch.setattr(
        "segdcn.verbs.data_check.check", lambda data, *_, **__: seen.append(data.num_workers) or Report()
    )
    for flags in ([], ["--num_workers=1"]):
        assert cli.main(["data", "check", str(data), *flags]) == 0
    assert seen == [3, 1]


def test_long_lists_are_capped_and_complete_in_the_file(tmp_path, capsys):
    data = make(case("swapped folders", "pictures and labels"), tmp_path)  # 12 missing files
    code, lines, _ = check(capsys, data, "--show", "3", "--json", str(tmp_path / "report.json"))
    assert code == 1 and "missing files: 12" in lines and "  and 9 more" in lines
    assert lines[-1] == "12 problems in 6 images of 2 splits"
    assert len(json.loads((tmp_path / "report.json").read_text())["problems"]) == 12


def test_a_broken_split_does_not_hide_the_others(tmp_path, capsys):
    data = make(case("list is no text", "Latin-1"), tmp_path)
    (tmp_path / "my sét/SegmentationClass/v1.png").unlink()
    code, lines, _ = check(capsys, data)
    assert code == 1 and lines[-1] == "2 problems in 2 images of 1 splits"
    code, lines, _ = check(capsys, data, "--splits", "[val]")
    assert code == 1 and lines[-1] == "1 problem in 2 images of 1 splits"
    code, lines, _ = check(capsys, data, "--settings.train_split=val", "--settings.test_split=val")
    assert code == 1 and lines[-1] == "1 problem in 2 images of 1 splits"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--root", "nowhere"], "nowhere is not a folder; set --data.root"),
        (["--num_workers", "-1"], "data.num_workers is -1; expected 0 or more"),
        (["--show", "-1"], "show is -1; expected 0 or more"),
        (["--json", "nowhere/report.json"], "json is nowhere/report.json, but must be a file in a folder that exists"),
    ],
)
def test_wrong_settings_are_the_users_error(tmp_path, capsys, flags, message):
    code, _, error = check(capsys, make(case("as it should be", "spaces"), tmp_path), *flags)
    assert code == cli.EXIT_USER_ERROR and message in error and error.count("\n") == 1


def test_shapes_and_the_real_samples_have_no_problems(tmp_path, capsys, test_data, pytestconfig):
    shapes.make(tmp_path / "shapes", train=3, val=2, size=48)
    configs = pytestconfig.rootpath / "configs" / "data"
    assert check(capsys, configs / "shapes.yaml", "--root", str(tmp_path / "shapes"))[0] == 0
    camvid = ["--root", str(test_data / "camvid"), "--splits", "[val]"]  # the smaller one
    code, lines, _ = check(capsys, configs / "camvid.yaml", *camvid)
    assert code == 0, lines


def test_a_name_that_is_no_text_is_told_by_its_bytes(tmp_path, capsys):
    """Archives packed elsewhere unpack to such names; Python carries their bytes along."""
    for folder in ("images/train", "labels/train"):
        (tmp_path / folder).mkdir(parents=True)
    name = os.fsdecode("grün.png".encode("latin-1"))
    Image.new("RGB", (8, 8)).save(tmp_path / "images/train/a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "images/train/a.png").read_bytes())
    (tmp_path / "a.png").rename(tmp_path / "images/train" / name)
    Image.new("L", (8, 8)).save(tmp_path / "labels/train/a.png")
    (tmp_path / "data.yaml").write_text(
        f"class_path: segdcn.data.Folder\n"
        f"init_args: {{root: {tmp_path}, classes: {{ground: [0, 0, 0]}}, images: 'images/{{split}}/{{name}}.png'}}\n"
    )
    code, lines, _ = check(capsys, tmp_path / "data.yaml", "--splits=[train]", "--json", str(tmp_path / "report.json"))
    assert code == 1 and lines[-1] == "1 problem in 2 images of 1 splits"
    assert "gr\\udcfcn.png has no label file" in lines[-2]


@pytest.mark.parametrize("content", ["class_path: segdcn.data.VOC\ninit_args: [root]\n", "- class_path\n"])
def test_a_yaml_of_another_form_is_refused(tmp_path, capsys, content):
    (tmp_path / "data.yaml").write_text(content)
    code, _, error = check(capsys, tmp_path / "data.yaml")
    assert code == cli.EXIT_USER_ERROR and "describes no data set; expected class_path and init_args" in error
