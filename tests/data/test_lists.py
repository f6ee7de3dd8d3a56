"""Lists as people save them, and as they should not."""

import os

import pytest

from segdcn.data import VOC
from segdcn.data.lists import join_below, read_list
from segdcn.errors import InvalidDataError


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_any_line_end_and_byte_order_mark_will_do(tmp_path, ends, encoding):
    path = tmp_path / "train.txt"
    path.write_bytes(ends.join(["a", "", "  two words ", "größe\x85x"]).encode(encoding))
    found = [(f"{path}, line 1", "a"), (f"{path}, line 3", "two words"), (f"{path}, line 4", "größe\x85x")]
    assert read_list(path) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("grün".encode("latin-1"), r"train.txt is no text in UTF-8 \(byte 2\)"),
        ("a\n".encode("utf-16-le"), r"train.txt is no text in UTF-8 \(it holds zero bytes\)"),
        ("a\n".encode("utf-16"), r"train.txt is no text in UTF-8 \(byte 0\)"),
    ],
)
def test_a_list_in_another_encoding_is_refused(tmp_path, content, message):
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(InvalidDataError, match=message):
        read_list(tmp_path / "train.txt")


def test_a_folder_in_place_of_a_list_is_refused(tmp_path):
    with pytest.raises(InvalidDataError, match=r"cannot be read \(Is a directory\)"):
        read_list(tmp_path)


def test_a_path_may_turn_back_but_not_leave_the_root(tmp_path):
    assert join_below(tmp_path, "a/../b.png", "here") == tmp_path / "b.png"
    for outside in ("../b.png", "a/../../b.png", "..\\b.png", "/etc/passwd"):
        with pytest.raises(InvalidDataError, match="^here names .* lies outside data.root"):
            join_below(tmp_path, outside, "here")


def test_names_in_voc_lists_may_hold_spaces_and_any_letter(tiny_voc):
    for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
        os.rename(tiny_voc / folder / f"b.{suffix}", tiny_voc / folder / f"grüne 木 b.{suffix}")
    (tiny_voc / "ImageSets/Segmentation/val.txt").write_bytes("a\r\ngrüne 木 b\r\n".encode("utf-8-sig"))
    data = VOC(str(tiny_voc))
    assert [sample.name for sample in data.samples("val")] == ["a", "grüne 木 b"]
    assert data.eval_dataset("val").read(1)[0].shape == (50, 20, 3)
