"""`segdcn data browse`: one page that needs nothing else and hides nothing."""

import base64
import io
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from segdcn import cli
from segdcn.data import shapes
from segdcn.pictures.contact_sheet import Classes, Tile, contact_sheet, overlay


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Shapes of 48x48 pixels, and their YAML."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes.make(folder / "set", train=5, val=2, size=48)
    settings = {"root": str(folder / "set"), "batch_size": 2, "num_workers": 0, "crop_size": 32}
    description = {"class_path": "segdcn.data.Shapes", "init_args": settings}
    (folder / "shapes.yaml").write_text(yaml.safe_dump(description))
    return folder / "shapes.yaml"


def browse(data, output, *flags):
    return cli.main(["data", "browse", str(data), str(output), *flags])


def pictures(page, kind):
    found = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_a_page_holds_stored_and_augmented_pictures_and_asks_for_no_other_file(data, tmp_path, capsys):
    assert browse(data, tmp_path / "page.html", "--count=2", "--views=2", "--settings.scale_range=[1,1]") == 0
    page = (tmp_path / "page.html").read_text()
    assert "2 samples, 6 pictures" in capsys.readouterr().out
    assert "Shapes: 2 of the 5 images of train" in page and "crops of 32 x 32, scaled by 1 to 1" in page
    assert len(pictures(page, "jpeg")) == len(pictures(page, "png")) == 6
    assert all(image.size == (480, 480) for image in pictures(page, "jpeg") + pictures(page, "png"))
    assert not re.search(r"https?://|<script|<link", page)
    assert all(f"</i>{name}" in page for name in shapes.CLASS_NAMES)
    for title in ("train_00000, 48 x 48", "train_00004, 48 x 48", "augmented, epoch 0", "augmented, epoch 1"):
        assert title in page


def test_the_page_says_what_was_done_to_the_pictures_and_nothing_else(data, tmp_path):
    settings = ["flip_prob=0", "rotation=20", "blur=0.5", "cat_max_ratio=0.75", "resize=[40,44]", "scale_range=[1,2]"]
    flags = [f"--settings.{setting}" for setting in settings]
    assert browse(data, tmp_path / "page.html", "--count=1", "--views=1", *flags) == 0
    page = (tmp_path / "page.html").read_text()
    assert (
        "Left: as read, at 40 x 44. Beside it: crops of 32 x 32, scaled by 1 to 2, at most 0.75 of one class where 10 "
        "tries find it, turned by up to 20 degrees, blurred with probability 0.5."
    ) in page
    assert "train_00000, 40 x 44" in page


def test_other_splits_and_stored_pictures_alone(data, tmp_path):
    assert browse(data, tmp_path / "page.html", "--split", "val", "--views", "0") == 0
    page = (tmp_path / "page.html").read_text()
    assert "Shapes: 2 of the 2 images of val" in page and "augmented" not in page


def test_nothing_is_written_over_unless_told_to(data, tmp_path, capsys):
    (tmp_path / "page.html").write_text("mine")
    assert browse(data, tmp_path / "page.html") == 2
    assert "exists already; choose another output, or pass --overwrite true" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "mine"
    assert browse(data, tmp_path / "page.html", "--count=1", "--views=0", "--overwrite=true") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count=0"], "count is 0"),
        (["--settings.crop_sise=32"], "crop_sise"),
        (["--settings.crop_size=33"], "data.crop_size is [33, 33]"),
        (["--split=test"], "no split 'test'"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_no_page(data, tmp_path, capsys, flags, message):
    assert browse(data, tmp_path / "page.html", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_an_output_without_a_folder_is_refused_before_anything_is_read(tmp_path, capsys):
    assert browse(tmp_path / "nowhere.yaml", tmp_path / "nowhere" / "page.html") == 2
    assert "must be a file in a folder that exists" in capsys.readouterr().err


CLASSES = Classes(["background", "a <b>"], [(0, 0, 0), (10, 20, 30)])


def test_labels_are_painted_with_borders_and_background_stays_clear():
    labels = np.zeros((12, 12), np.uint8)
    labels[3:9, 3:9] = 1
    painted = overlay(labels, CLASSES)
    assert painted[0, 0, 3] == 0
    assert painted[6, 6].tolist() == [10, 20, 30, 120] and painted[3, 6].tolist() == [10, 20, 30, 255]


def test_ignored_pixels_are_hatched_and_class_0_is_painted_unless_it_is_background():
    painted = overlay(np.full((18, 18), 255, np.uint8), CLASSES)
    assert len(np.unique(painted.reshape(-1, 4), axis=0)) == 2 and (painted[..., 3] > 0).all()
    assert (overlay(np.zeros((4, 4), np.uint8), Classes(["sky"], [(1, 2, 3)])) == (1, 2, 3, 120)).all()


def test_names_are_written_in_and_escaped():
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 10:50] = 1
    tile = Tile("<name>", np.zeros((40, 60, 3), np.uint8), labels)
    page = contact_sheet("title", "subtitle", [tile], 1, CLASSES)
    assert "repeat(1,minmax(260px,1fr))" in page  # narrower, names would lie over one another
    assert "&lt;name&gt;" in page and "<name>" not in page
    assert re.search(r'<b style="left:\d+\.\d%;top:\d+\.\d%">a &lt;b&gt;</b>', page)
    assert "background 66.7%" in page and "a &lt;b&gt; 33.3%" in page
