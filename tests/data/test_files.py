"""What is stored comes back as it is, or not at all."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segdcn.data.files import check_file, read_id_map, read_picture
from segdcn.errors import InvalidDataError, MissingFileError


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, bits, rows):
    """A greyscale PNG of any depth, which Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("bits", "row"), [(2, b"\x1b"), (4, b"\x01\x23"), (8, b"\x00\x01\x02\x03")])
def test_ids_of_any_depth_come_back_as_they_were_stored(tmp_path, bits, row):
    """Pillow spreads 0, 1, 2, 3 of two bits over 0, 85, 170, 255."""
    (tmp_path / "a.png").write_bytes(png(4, 1, bits, b"\0" + row))
    assert read_id_map(tmp_path / "a.png").tolist() == [[0, 1, 2, 3]]


def test_ids_in_a_jpeg_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(InvalidDataError, match="a.png is a JPEG, whose compression changes ids; expected a PNG"):
        read_id_map(tmp_path / "a.png")


@pytest.mark.parametrize(("kind", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_a_picture_that_would_be_clipped_to_white_is_refused(tmp_path, kind, mode):
    Image.fromarray(np.full((4, 4), 1000, kind)).save(tmp_path / "a.tif")
    with pytest.raises(InvalidDataError, match=f"a.tif has mode {mode}; expected 8 bits per channel"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("read", [read_picture, read_id_map])
def test_a_header_that_promises_a_gigantic_picture_is_refused(tmp_path, read):
    (tmp_path / "a.png").write_bytes(png(60000, 60000, 8, b"\0"))
    with pytest.raises(InvalidDataError, match=r"a.png cannot be read as a picture \(Image size .*; replace the file"):
        read(tmp_path / "a.png")


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InvalidDataError, match=r"a.png cannot be read as a picture \(it is empty\); replace the file"):
        read_picture(tmp_path / "a.png")


def test_what_is_no_file_is_told_apart(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    expected = {
        "folder": (InvalidDataError, "folder is a folder; expected a picture"),
        "loop": (InvalidDataError, "loop cannot be read .Too many levels of symbolic links"),
        "gone": (MissingFileError, "gone is a link to .*nowhere, which does not exist"),
        "nothing": (MissingFileError, "^as told$"),
        "file/below": (MissingFileError, "^as told$"),
        300 * "a": (InvalidDataError, "cannot be read .File name too long"),
    }
    for name, (kind, message) in expected.items():
        with pytest.raises(kind, match=message):
            check_file(tmp_path / name, "as told")
    check_file(tmp_path / "file", "as told")
