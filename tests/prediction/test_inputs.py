"""Which pictures inputs name, and what their results are called."""

import os

import pytest
from PIL import Image

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.prediction.inputs import find_pictures


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Names alone matter here: files are empty."""
    for name in ("p/a.jpg", "p/x/b.PNG", "p/x/y/c.v2.tif", "p/.hidden/d.png", "p/._e.jpg", "p/notes.txt", "q/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs, results=()):
    return [(str(source.path), source.name) for source in find_pictures(inputs, results)]


def test_folders_keep_their_structure_and_hidden_files_are_left_out(tree):
    assert names("p") == [("p/a.jpg", "a"), ("p/x/b.PNG", "x/b"), ("p/x/y/c.v2.tif", "x/y/c.v2")]
    assert names("p/x/../x") == [("p/x/../x/b.PNG", "b"), ("p/x/../x/y/c.v2.tif", "y/c.v2")]


def test_a_file_is_taken_whatever_its_ending_and_called_by_its_name_alone(tree):
    assert names("p/notes.txt", "p/../q/a.jpg") == [("p/notes.txt", "notes"), ("p/../q/a.jpg", "a")]


def test_patterns_keep_the_structure_behind_the_part_without_wildcards(tree):
    assert names("p/**/*.[Pp][Nn][Gg]") == [("p/x/b.PNG", "x/b")]
    assert names("*/a.jpg") == [("p/a.jpg", "p/a"), ("q/a.jpg", "q/a")]
    assert names("p/*/../a.jpg") == [("p/x/../a.jpg", "a")]
    (tree / "p" / "[1].jpg").touch()
    assert names("p/[1].jpg") == [("p/[1].jpg", "[1]")]  # what is there is no pattern
    with pytest.raises(UserValueError, match="leads out of p, so that results have no place"):
        names("p/*/../../q/a.jpg")


def test_two_pictures_of_one_result_are_refused_by_name(tree):
    with pytest.raises(
        UserValueError, match=r"the results of p/a.jpg and of q/a.jpg would have the same name, a: give"
    ):
        names("p/a.jpg", "q/a.jpg")
    with pytest.raises(UserValueError, match="the same name, a"):
        names("p", "q")
    (tree / "p" / "a.png").touch()
    with pytest.raises(UserValueError, match="p/a.jpg and of p/a.png"):
        names("p")
    assert names(".", results=[tree / "p"]) == [("q/a.jpg", "q/a")]


def test_a_picture_that_is_named_twice_is_labelled_once(tree):
    assert names("p", "p/a.jpg", f"{tree}/p/a.jpg") == names("p")


def test_folders_of_results_are_not_looked_into(tree):
    results = [tree / "p" / "x"]
    assert names("p", results=results) == [("p/a.jpg", "a")]
    assert names("p/**/*.*", results=results) == [("p/a.jpg", "a"), ("p/notes.txt", "notes")]
    assert names("p/x/b.PNG", results=results) == [("p/x/b.PNG", "b")]  # who names it wants it
    with pytest.raises(MissingFileError, match="no file matches p/x/"):
        names("p/x/*.PNG", results=results)


def test_links_to_folders_are_followed_once(tree):
    (tree / "p" / "loop").symlink_to(tree / "p")
    (tree / "p" / "z").symlink_to(tree / "q")
    assert [name for _, name in names("p")] == ["a", "x/b", "x/y/c.v2", "z/a"]


def test_what_names_nothing_is_refused(tree):
    for given, message in {
        "nowhere.jpg": "there is no nowhere.jpg; expected pictures, folders or glob patterns",
        "p/*.bmp": r"no file matches p/\*.bmp",
        "p/.hidden/e": "there is no p/.hidden/e",
    }.items():
        with pytest.raises(MissingFileError, match=message):
            names("p/a.jpg", given)
    with pytest.raises(UserValueError, match="one of the inputs is empty"):
        names("p/a.jpg", "")
    (tree / "empty").mkdir()
    with pytest.raises(MissingFileError, match="the folder empty holds no pictures; their names end in .jpg"):
        names("empty")


def test_a_folder_that_cannot_be_read_is_named(tree, monkeypatch):
    scandir = os.scandir

    def refusing(folder):
        if os.fspath(folder) == "p/x":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything
    with pytest.raises(InvalidDataError, match="the folder p/x cannot be read .Permission denied"):
        names("p")


def test_names_with_line_ends_stay_below_the_folder(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a\n..png")
    assert [source.name for source in find_pictures([str(tmp_path)], [])] == ["a\n."]
