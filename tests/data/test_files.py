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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_pictures_are_turned_upright_where_that_is_asked_for(tmp_path, orientation, ending):
    """A picture that is dark but for its upper left quarter, stored in all ways in which cameras store it."""
    upright = Image.fromarray(np.kron([[250, 5, 5], [5, 5, 5]], np.ones((16, 16))).astype(np.uint8))
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    picture, exif = upright if stored is None else upright.transpose(stored), Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    picture.convert("RGB").save(path, exif=exif, quality=100)
    turned, plain = read_picture(path, upright=True), read_picture(path)
    np.testing.assert_allclose(turned, np.asarray(upright.convert("RGB")), atol=8)  # JPEG and WebP lose a little
    np.testing.assert_allclose(plain, np.asarray(picture.convert("RGB")), atol=8)


@pytest.mark.parametrize(
    ("mode", "ending", "expected"),
    [
        ("L", "png", (120, 120, 120)),
        ("LA", "png", (120, 120, 120)),
        ("RGBA", "png", (10, 200, 30)),
        ("P", "png", (10, 200, 30)),
        ("1", "png", (255, 255, 255)),
        ("CMYK", "tif", (10, 200, 30)),
        ("YCbCr", "tif", (10, 200, 30)),
        ("LAB", "tif", (119, 119, 119)),
        ("I;16", "png", "a.png has mode I;16; expected 8 bits per channel. Scale its values to 0..255 first"),
        ("F", "tif", "a.tif has mode F; expected 8 bits per channel"),
    ],
)
def test_every_mode_becomes_rgb_or_is_refused_by_name(tmp_path, mode, ending, expected):
    colours = {
        "L": 120,
        "LA": (120, 0),
        "RGBA": (10, 200, 30, 0),
        "1": 1,
        "CMYK": (245, 55, 225, 0),
        "LAB": (128, 128, 128),
    }
    if mode == "P":  # with a colour that is half transparent: Pillow warns of those
        picture = Image.new("P", (3, 2), 1)
        picture.putpalette([0, 0, 0, 10, 200, 30])
        picture.info["transparency"] = bytes([0, 128])
    elif mode == "YCbCr":
        picture = Image.new("RGB", (3, 2), (10, 200, 30)).convert(mode)
    else:
        picture = Image.new(mode, (3, 2), colours.get(mode, 0))
    path = tmp_path / f"a.{ending}"
    picture.save(path, **({"transparency": picture.info["transparency"]} if mode == "P" else {}))
    if isinstance(expected, str):
        with pytest.raises(InvalidDataError, match=expected):
            read_picture(path)
    else:
        np.testing.assert_allclose(read_picture(path), np.tile(expected, (2, 3, 1)), atol=2)


def test_of_colours_with_16_bits_the_upper_8_are_read(tmp_path):
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0x0AFF, 0xC800, 0x1E80)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert read_picture(tmp_path / "a.png").tolist() == [[[10, 200, 30]]]


def test_a_decoder_that_trips_over_a_file_says_which(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def trip(*_):
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", trip)
    with pytest.raises(InvalidDataError, match="a.png is damaged or cut short .unpack requires"):
        read_picture(tmp_path / "a.png")


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
