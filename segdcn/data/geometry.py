"""Which pixels a training crop shows: scaled, cut out, turned and mirrored.

Everything is drawn before a pixel is read, so that of a large image only the crop's window has to be.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Stretch:
    """Along one axis: the source pixels `start` to `stop` become `length` pixels, `before` pixels into the canvas."""

    start: int
    stop: int
    before: int
    length: int


@dataclass(frozen=True)
class View:
    """A crop of an image: a window that is scaled, laid on a canvas, turned about its centre, and mirrored.

    Attributes:
        rows: From rows of the image to rows of the canvas.
        columns: Likewise for columns.
        canvas: (height, width) of the crop and of what turning it brings in around it.
        crop: (height, width) of the result.
        angle: Degrees, anticlockwise.
        flip: Whether left and right change places, last of all.
    """

    rows: Stretch
    columns: Stretch
    canvas: tuple[int, int]
    crop: tuple[int, int]
    angle: float
    flip: bool

    def cut(self, source: np.ndarray, interpolation: int) -> np.ndarray:
        """Read the window of an image or label map, which may be mapped from a file, and scale it."""
        window = np.asarray(source[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop])
        size = (self.rows.length, self.columns.length)
        return window if window.shape[:2] == size else cv2.resize(window, size[::-1], interpolation=interpolation)

    def place(self, window: np.ndarray, fill: tuple[float, ...], interpolation: int) -> np.ndarray:
        """Lay a window that was cut on the canvas, turn and mirror it; `fill` is seen where no image is."""
        (height, width), (top, left) = self.canvas, (self.rows.before, self.columns.before)
        below, right = height - top - self.rows.length, width - left - self.columns.length
        if top or below or left or right:
            window = cv2.copyMakeBorder(window, top, below, left, right, cv2.BORDER_CONSTANT, value=fill)
        if self.angle:
            turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.angle, 1)
            turn[:, 2] -= (width - self.crop[1]) / 2, (height - self.crop[0]) / 2
            size = (self.crop[1], self.crop[0])
            window = cv2.warpAffine(window, turn, size, None, interpolation, cv2.BORDER_CONSTANT, fill)
        return cv2.flip(window, 1) if self.flip else window


def draw_view(
    rng: np.random.Generator,
    image: tuple[int, int],
    crop: tuple[int, int],
    scale: float = 1,
    angle: float = 0,
    flip: bool = False,
) -> View:
    """Draw the place of a crop, uniformly among those inside the scaled image; a smaller image lies inside the crop.

    Window and place are whole pixels of the image and of the crop, so that scale and place are off by up to
    one of them.

    Args:
        rng: Where the place is drawn from.
        image: (height, width).
        crop: (height, width).
        scale: Factor on the image's size.
        angle: Degrees that the crop is turned by, about its centre.
        flip: Whether it is mirrored.
    """
    sine, cosine = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    bounds = (crop[0] * cosine + crop[1] * sine, crop[1] * cosine + crop[0] * sine)
    # One more pixel on each side: interpolation reads it.
    margins = [max(0, math.ceil((b - c) / 2)) + 1 if angle else 0 for b, c in zip(bounds, crop, strict=True)]
    rows, columns = (_draw(rng, image[i], crop[i], margins[i], scale) for i in (0, 1))
    return View(rows, columns, (crop[0] + 2 * margins[0], crop[1] + 2 * margins[1]), crop, angle, flip)


def _draw(rng: np.random.Generator, image: int, crop: int, margin: int, scale: float) -> Stretch:
    """Draw the crop's place along one axis, and find what it shows of the image, a margin on both sides included."""
    scaled = max(1, round(image * scale))
    place = int(rng.integers(0, abs(scaled - crop) + 1))
    first = (place if scaled >= crop else -place) - margin  # of the canvas, in pixels of the scaled image
    low, high = max(0, first), min(scaled, first + crop + 2 * margin)
    start = min(round(low * image / scaled), image - 1)
    stop = max(round(high * image / scaled), start + 1)
    return Stretch(start, stop, low - first, high - low)
