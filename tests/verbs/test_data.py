"""`segdcn data make-shapes`: writes a set, and never over someone's files."""

import pytest

from segdcn.data import Shapes
from segdcn.errors import UserValueError
from segdcn.verbs.data import make_shapes


def test_it_makes_a_set_that_loads_and_says_where_it_lies(tmp_path, capsys):
    make_shapes(str(tmp_path / "shapes"), train=4, val=2, size=48)
    data = Shapes(str(tmp_path / "shapes"), batch_size=4, crop_size=32)
    data.setup("fit")
    said = capsys.readouterr().out
    assert "4 training and 2 validation pictures of 48x48 pixels" in said
    for place in ("JPEGImages", "SegmentationClass", "SegmentationObject", "dataset.json"):
        assert str(tmp_path / "shapes" / place) in said


def test_it_refuses_a_folder_that_holds_a_set_unless_told_to_replace_it(tmp_path):
    make_shapes(str(tmp_path), train=4, val=1, size=48)
    with pytest.raises(UserValueError, match="is not empty; choose another --output, or pass --overwrite true"):
        make_shapes(str(tmp_path), train=1, val=1, size=48)
    make_shapes(str(tmp_path), train=1, val=1, size=48, overwrite=True)
    assert len(list((tmp_path / "JPEGImages").iterdir())) == 2


@pytest.mark.parametrize(
    "file", ["thesis.tex", "JPEGImages/2007_000032.jpg", "JPEGImages/own.png", "SegmentationClass/own.png"]
)
def test_it_never_empties_a_folder_of_other_files(tmp_path, file):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("years of work")
    with pytest.raises(UserValueError, match="holds files that make-shapes did not write"):
        make_shapes(str(tmp_path), train=1, val=1, size=48, overwrite=True)
    assert path.read_text() == "years of work"


def test_it_refuses_a_file_as_output(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserValueError, match="is a file; expected a folder"):
        make_shapes(str(tmp_path / "file"))


def test_a_wrong_setting_is_refused_before_anything_is_removed(tmp_path):
    make_shapes(str(tmp_path), train=1, val=1, size=48)
    with pytest.raises(UserValueError, match="size is 8"):
        make_shapes(str(tmp_path), size=8, overwrite=True)
    assert len(list((tmp_path / "JPEGImages").iterdir())) == 2
