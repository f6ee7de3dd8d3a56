"""Where exports go: nothing is lost that was there, whatever happens on the way."""

from pathlib import Path

import pytest

from segdcn.errors import UserValueError
from segdcn.export.output import check_output, named_after, publish, staged


def exported(folder, text="old"):
    """Make a folder as an export of safetensors leaves it."""
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", ["weights", "replaced"])
def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path, name):
    output = exported(tmp_path / name)
    with staged(output) as written:
        publish(exported(written, "new"), output, overwrite=True)
    assert (output / "config.json").read_text() == "new" and list(tmp_path.iterdir()) == [output]


def test_the_earlier_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path):
    output = exported(tmp_path / "weights")
    with pytest.raises(FileNotFoundError), staged(output) as written:
        publish(written, output, overwrite=True)  # which was never written
    assert (output / "config.json").read_text() == "old" and list(tmp_path.iterdir()) == [output]


def test_what_has_come_to_the_place_in_the_meantime_stays(tmp_path):
    output = tmp_path / "a.onnx"
    check_output(output, ".onnx", False, tmp_path / "best.ckpt")
    with pytest.raises(UserValueError, match="was made by another program in the meantime, and stays"):
        with staged(output) as written:
            written.write_text("mine")
            output.write_text("theirs")
            publish(written, output, overwrite=False)
    assert output.read_text() == "theirs" and list(tmp_path.iterdir()) == [output]


def test_a_link_that_leads_nowhere_is_something_too(tmp_path):
    (tmp_path / "a.onnx").symlink_to("nowhere.onnx")
    with pytest.raises(UserValueError, match="a.onnx exists; choose another --output"):
        check_output(tmp_path / "a.onnx", ".onnx", False, tmp_path / "best.ckpt")


def test_what_is_exported_is_not_replaced_by_it(tmp_path):
    source = exported(tmp_path / "weights")
    (tmp_path / "link").symlink_to(source)
    for output in (source, tmp_path / "link", tmp_path / "weights" / ".." / "weights"):
        with pytest.raises(UserValueError, match="which is what it would be made from"):
            check_output(output, "", True, source)


def test_outputs_are_named_after_what_they_are_made_from(tmp_path, monkeypatch):
    assert named_after(Path("runs/epoch=3-mIoU=0.71.ckpt"), ".onnx") == Path("runs/epoch=3-mIoU=0.71.onnx")
    folder = exported(tmp_path / "street-v1.2")
    assert named_after(folder, ".onnx") == tmp_path / "street-v1.2.onnx"
    monkeypatch.chdir(folder)
    for here in (".", "", "../street-v1.2/.."):
        expected = tmp_path / "street-v1.2.onnx" if ".." not in here else tmp_path.with_name(f"{tmp_path.name}.onnx")
        assert named_after(Path(here), ".onnx") == expected
