"""Sets that are described by YAML alone."""

import numpy as np
import pytest
from PIL import Image

from segdcn.data import Folder
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

CLASSES = {"ground": [0, 0, 0], "tree": [10, 200, 30], "house": [200, 0, 0]}
IDS = np.array([[0, 1, 2, 7], [2, 2, 1, 0]], np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two pictures, one in a subfolder, with ids and with colours."""
    for name in ("a", "town b/ü"):
        for kind, suffix in (("images", "png"), ("ids", "png"), ("colours", "png")):
            path = tmp_path / kind / "train" / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            palette = np.zeros((8, 3), np.uint8)
            palette[:3], palette[7] = list(CLASSES.values()), (1, 2, 3)
            picture = IDS if kind == "ids" else palette[IDS]
            Image.fromarray(picture).save(path)
    return tmp_path


def folder(root, **settings):
    description = {"images": "images/{split}/{name}.png", "labels": "ids/{split}/{name}.png", "ignore": [7]}
    return Folder(str(root), CLASSES, **{**description, **settings})


def test_pictures_that_match_are_the_split(root):
    data = folder(root)
    assert [sample.name for sample in data.samples("train")] == ["a", "town b/ü"]
    assert data.num_classes == 3 and data.class_names == ("ground", "tree", "house")
    labels = data.eval_dataset("train").read(1)[1]
    assert labels.tolist() == [[0, 1, 2, 255], [2, 2, 1, 0]]


def test_colours_are_read_as_classes(root):
    data = folder(root, labels="colours/{split}/{name}.png", label_format="colours", ignore=[[1, 2, 3]])
    assert data.eval_dataset("train").read(0)[1].tolist() == [[0, 1, 2, 255], [2, 2, 1, 0]]
    data = folder(root, labels="colours/{split}/{name}.png", label_format="colours", ignore=[])
    with pytest.raises(InvalidDataError, match=r"holds the colour \[1, 2, 3\] in 1 pixels"):
        data.eval_dataset("train").read(0)


def test_an_id_map_renames_what_is_stored(root):
    data = folder(root, id_map={0: 2, 1: 255, 2: 0, 7: 1}, ignore=[])
    assert data.eval_dataset("train").read(0)[1].tolist() == [[2, 255, 0, 1], [0, 0, 255, 2]]
    with pytest.raises(InvalidDataError, match="holds the number 7 in 1 pixels, which is no class"):
        folder(root, ignore=[]).eval_dataset("train").read(0)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_lists_hold_names_or_pairs(root, ends):
    lines = ["a", "", "images/train/town b/ü.png\tids/train/town b/ü.png", ""]
    (root / "some.txt").write_bytes(ends.join(lines).encode("utf-8-sig"))
    data = folder(root, lists="{split}.txt", images="images/train/{name}.png", labels="ids/train/{name}.png")
    assert [sample.name for sample in data.samples("some")] == ["a", "images/train/town b/ü"]
    assert len(data.eval_dataset("some")) == 2 and data.eval_dataset("some").read(1)[1].shape == (2, 4)


def test_camvid_is_read_by_its_lists(test_data):
    data = Folder(str(test_data / "camvid"), {str(i): [i, 0, 0] for i in range(11)}, lists="{split}.txt", ignore=[11])
    assert (len(data.samples("train")), len(data.samples("val"))) == (367, 101)
    assert set(np.unique(data.eval_dataset("val").read(0)[1]).tolist()) <= {*range(11), 255}


@pytest.mark.parametrize(
    "line,message",
    [
        ("../../outside", r"line 1 names images/\.\./\.\./outside.png, which lies outside data.root"),
        ("/etc/passwd ids/train/a.png", "lies outside data.root"),
        ("images/my photo.png ids/my photo.png", "expected a name, or an image and a label path"),
    ],
)
def test_lists_that_lead_elsewhere_are_refused(root, line, message):
    (root / "some.txt").write_text(line)
    data = folder(root, lists="{split}.txt", images="images/{name}.png", labels="ids/{name}.png")
    with pytest.raises(InvalidDataError, match=message):
        data.samples("some")


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"images": "images/*.png"}, "data.images is 'images/.*{name}"),
        ({"lists": "train.txt"}, "data.lists is 'train.txt'; expected a path with {split}"),
        ({"id_map": {0: 3}}, "makes 0 the class 3; expected 0 to 2 or 255"),
        ({"ignore": [[1, 2, 3]]}, "data.ignore holds"),
        ({"label_format": "colours", "id_map": {0: 0}, "ignore": []}, "data.id_map is for label_format ids"),
        ({"label_format": "colours", "ignore": [[0, 0, 0]]}, "two classes have the colour"),
    ],
)
def test_descriptions_that_do_not_hold_together_are_refused(root, settings, message):
    with pytest.raises(UserValueError, match=message):
        folder(root, **settings)


def test_missing_folders_and_lists_are_named(root):
    with pytest.raises(MissingFileError, match="no pictures of the split 'val'"):
        folder(root).samples("val")
    with pytest.raises(MissingFileError, match="no list of the split 'val'"):
        folder(root, lists="{split}.txt").samples("val")


def test_colours_have_three_numbers(root):
    with pytest.raises(UserValueError, match=r"data.classes.x is \[1, 2\]; expected a colour"):
        Folder(str(root), {"x": [1, 2]})


def test_a_name_in_a_list_may_hold_spaces(root):
    (root / "some.txt").write_text("town b/ü\na\nmy nice photo\n")
    data = folder(root, lists="{split}.txt", images="images/train/{name}.png", labels="ids/train/{name}.png")
    assert [sample.name for sample in data.list_samples("some")] == ["town b/ü", "a", "my nice photo"]


def test_a_picture_that_is_a_dead_link_is_named_and_not_left_out(root):
    (root / "images/train/z.png").symlink_to(root / "gone.png")
    with pytest.raises(MissingFileError, match="z.png is a link to .*gone.png, which does not exist"):
        folder(root).samples("train")


def test_a_picture_that_is_its_own_label_map_is_refused(root):
    with pytest.raises(InvalidDataError, match="a.png is listed as its own label map in the split 'train'"):
        folder(root, labels="images/{split}/{name}.png").samples("train")
