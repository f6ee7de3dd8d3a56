"""From a path to an array, with one clear line when the file is not what it should be; and back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segdcn.errors import InvalidDataError, MissingFileError

# Modes whose pixels are one number: palette index, 8, 16 and 32 bit ids.
_ID_MODES = ("P", "L", "I", "I;16")


def read_picture(path: Path) -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 RGB; grey and palette pictures become RGB.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: The file is no picture, or is cut short.
    """
    with _opened(path) as picture:
        return np.asarray(_decoded(picture, path).convert("RGB"))


def read_id_map(path: Path) -> np.ndarray:
    """Read a label or instance map as (H, W) ids: the stored numbers, never the palette's colours.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: The file is no picture, is cut short, or holds colours instead of ids.
    """
    with _opened(path) as picture:
        if picture.mode not in _ID_MODES:
            raise InvalidDataError(
                f"{path} has mode {picture.mode}; expected one id per pixel (a palette or greyscale PNG). "
                "Convert colour-coded labels to ids first"
            )
        return np.asarray(_decoded(picture, path))


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
        return Image.open(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidDataError(
            f"{path} cannot be read as a picture ({_first_line(error)}); replace the file"
        ) from error


def _decoded(picture: Image.Image, path: Path) -> Image.Image:
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's three ways to say "broken"
        raise InvalidDataError(f"{path} is damaged or cut short ({_first_line(error)}); replace the file") from error
    return picture


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
