"""From a path to an array, with one clear line when the file is not what it should be; and back."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from segdcn.errors import InvalidDataError, MissingFileError

# Modes whose pixels are one number: palette index, 8, 16 and 32 bit ids.
_ID_MODES = ("P", "L", "I", "I;16")
# More than 8 bits a channel: Pillow would clip them to white on the way to RGB.
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# Pillow spreads grey of 2 and 4 bits over 0..255; ids have to come back as they were stored.
_SPREAD = {"L;2": 85, "L;4": 17}


def check_file(path: Path, missing: str) -> None:
    """Refuse a path at which no file lies.

    Args:
        path: Where it should be.
        missing: What to say when nothing is there.

    Raises:
        MissingFileError: Nothing is there, or a link that leads nowhere.
        InvalidDataError: A folder is, or the way to it cannot be walked.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise MissingFileError(f"{path} is a link to {os.readlink(path)}, which does not exist") from None
        raise MissingFileError(missing) from None
    except OSError as error:  # no permission, a loop of links, a name too long
        raise InvalidDataError(f"{path} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise InvalidDataError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}; expected a picture")


def read_picture(path: Path, upright: bool = False) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB, see `rgb`.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: The file is no picture, is cut short, or has more than 8 bits a channel.
    """
    with _opened(path) as picture:
        return rgb(picture, path, upright)


def rgb(picture: Image.Image, name: object, upright: bool = False) -> np.ndarray:
    """Turn a picture into (H, W, 3) uint8 RGB.

    Grey and palette pictures become RGB, CMYK by the plain formula, without a colour profile. Transparency
    is dropped: what lies under it is seen. Of colours with 16 bits a channel the upper 8 are taken. Of
    several frames the first is read.

    Args:
        picture: Opened, perhaps not decoded yet.
        name: What errors call it.
        upright: Turn it as its EXIF data say, as viewers do. Otherwise pixels lie as they are stored, which
            is how those of its label map lie.

    Raises:
        InvalidDataError: It is damaged, cut short, or has more than 8 bits in its one channel.
    """
    if picture.mode in _DEEP_MODES:
        raise InvalidDataError(
            f"{name} has mode {picture.mode}; expected 8 bits per channel. Scale its values to 0..255 first"
        )
    with _damage_named(name):
        picture = ImageOps.exif_transpose(picture) if upright else picture
        if "transparency" in picture.info:  # Pillow warns of a palette's otherwise
            picture = picture.convert("RGBA")
        return np.asarray(picture.convert("RGB"))


def read_id_map(path: Path) -> np.ndarray:
    """Read a label or instance map as (H, W) ids: the stored numbers, never the palette's colours.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: The file is no picture, is cut short, holds colours instead of ids, or
            is a JPEG, which does not keep ids.
    """
    with _opened(path) as picture:
        if picture.mode not in _ID_MODES:
            raise InvalidDataError(
                f"{path} has mode {picture.mode}; expected one id per pixel (a palette or greyscale PNG). "
                "Convert colour-coded labels to ids first"
            )
        if picture.format == "JPEG":
            raise InvalidDataError(f"{path} is a JPEG, whose compression changes ids; expected a PNG")
        raw_mode = str(picture.tile[0].args) if isinstance(picture, PngImageFile) and picture.tile else ""
        ids = np.asarray(_decoded(picture, path))
        return ids // _SPREAD[raw_mode] if raw_mode in _SPREAD else ids


def read_indexed(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a palette picture as ids (H, W) and the colours (256, 3) of ids; None for others that are whole.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: The file is no picture, or is cut short.
    """
    with _opened(path) as picture:
        ids, stored = np.asarray(_decoded(picture, path)), picture.getpalette("RGB")
        if picture.mode != "P" or stored is None:
            return None
        colours = np.zeros((256, 3), np.uint8)
        colours.ravel()[: len(stored)] = stored
        return ids, colours


def write_id_map(path: Path, ids: np.ndarray, palette: Sequence[Sequence[int]] | None = None) -> None:
    """Write ids (H, W) uint8 as a PNG of 8 bits, with a palette if one is given; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids)
    if palette is not None:
        picture.putpalette([channel for colour in palette for channel in colour])
    picture.save(path)


def check_size(path: Path, ids: np.ndarray, image_path: Path, image: np.ndarray) -> None:
    """Refuse labels or instances (H, W) of another size than their image (H, W, 3).

    Raises:
        InvalidDataError: They differ.
    """
    if image.shape[:2] != ids.shape:
        raise InvalidDataError(
            f"{path} is {ids.shape[0]}x{ids.shape[1]} pixels (height x width), "
            f"but its image {image_path} is {image.shape[0]}x{image.shape[1]}"
        )


def _opened(path: Path) -> Image.Image:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise InvalidDataError(f"{path} is no file; expected a picture")  # a pipe would be waited for
        return Image.open(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except PermissionError as error:
        raise InvalidDataError(f"{path} cannot be read ({error.strerror})") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they trip over
        empty = path.is_file() and path.stat().st_size == 0
        reason = "it is empty" if empty else _first_line(error).replace(f" {str(path)!r}", "")
        raise InvalidDataError(f"{path} cannot be read as a picture ({reason}); replace the file") from error


def _decoded(picture: Image.Image, path: Path) -> Image.Image:
    with _damage_named(path):
        picture.load()
    return picture


@contextmanager
def _damage_named(name: object) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # likewise
        raise InvalidDataError(f"{name} is damaged or cut short ({_first_line(error)}); replace the file") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
