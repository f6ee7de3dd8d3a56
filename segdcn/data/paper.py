"""What the sheets of Shapes are cut from: colours and printed patterns."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Pattern = Callable[[np.random.Generator, int], np.ndarray]  # -> (S, S) in [0, 1]


@dataclass(frozen=True)
class Paper:
    """A stock of paper.

    Attributes:
        lightness: Lowest and highest above the picture's level, in OKLab (0 black, 1 white).
        chroma: Lowest and highest, in OKLab (0 grey, 0.3 as vivid as a screen can).
        contrast: Lowest and highest difference in lightness of a pattern's tones from the mean.
        patterns: What may be printed on it.
    """

    lightness: tuple[float, float]
    chroma: tuple[float, float]
    contrast: tuple[float, float]
    patterns: tuple[Pattern, ...]

    def colours(self, rng: np.random.Generator, count: int, level: float) -> np.ndarray:
        """Draw colours that differ from one another: (count, 3) OKLab.

        `level` is the lightness of the picture's darkest paper.

        Picking each as far as possible from those before lets every sheet stand out from
        the others; shuffling afterwards gives every sheet the same distribution.
        """
        lowest, highest = zip(self.lightness, self.chroma, (0, 2 * np.pi), strict=True)
        lightness, chroma, hue = rng.uniform(lowest, highest, (40, 3)).T
        candidates = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
        candidates[:, 0] += level
        chosen = [candidates[0]]
        for _ in range(count - 1):
            distance = np.linalg.norm(candidates[:, None] - np.array(chosen), axis=2).min(axis=1)
            chosen.append(candidates[distance.argmax()])
        return rng.permutation(np.array(chosen))

    def sheet(self, rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
        """Print a pattern of two tones of `colour` (OKLab): (size, size, 3) float32 RGB in [0, 1]."""
        pattern = self.patterns[int(rng.integers(len(self.patterns)))](rng, size)[..., None]
        tone = np.array([rng.uniform(*self.contrast), *rng.uniform(-0.03, 0.03, 2)])
        dark, light = _rgb(np.stack([colour - tone, colour + tone])).astype(np.float32)
        return dark + (light - dark) * pattern.astype(np.float32)


def ramp(size: int, angle: float) -> np.ndarray:
    """Rise from about -0.5 to 0.5 across a picture, in one direction: (size, size) float32."""
    position = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return np.float32(np.cos(angle)) * position + np.float32(np.sin(angle)) * position[:, None]


def _waves(rng: np.random.Generator, size: int, angle: float) -> np.ndarray:
    """Parallel waves in [-1, 1], 9 to 24 to the picture's side."""
    return np.sin(2 * np.pi * rng.uniform(9, 24) * ramp(size, angle) + rng.uniform(0, 2 * np.pi))


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(3 * _waves(rng, size, rng.uniform(0, np.pi)))


def _checks(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, np.pi)
    return 0.5 + 0.5 * np.tanh(3 * _waves(rng, size, angle) * _waves(rng, size, angle + np.pi / 2))


def _dots(rng: np.random.Generator, size: int) -> np.ndarray:
    angle = rng.uniform(0, np.pi)
    return 0.5 + 0.5 * np.tanh(3 * (_waves(rng, size, angle) + _waves(rng, size, angle + np.pi / 2) - 0.7))


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    cells = int(rng.integers(6, 28))
    noise = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    return 0.5 + 0.5 * ramp(size, rng.uniform(0, 2 * np.pi))


def _rgb(oklab: np.ndarray) -> np.ndarray:
    """Convert (n, 3) OKLab to sRGB, cut off at the gamut (Ottosson 2020)."""
    to_lms = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    linear = ((oklab @ np.transpose(to_lms)) ** 3 @ np.transpose(to_rgb)).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# The ground and its bands are dark and calm, objects and the clutter between them lighter and
# printed: a small network finds that something lies there within 200 steps, and then has the
# forms to learn. With one stock for everything it spends 700 steps on the first half alone.
# All six classes are cut from the same stock, and so is clutter (about a quarter of what is bright):
# the best lookup from colour to class stays below an mIoU of 0.20.
LEVEL = (0.18, 0.26)
GROUND = Paper((0.00, 0.20), (0.02, 0.09), (0.015, 0.04), (_clouds, _gradient))
PRINTED = Paper((0.36, 0.66), (0.03, 0.16), (0.04, 0.08), (_stripes, _checks, _dots))
