"""Change brightness, contrast, saturation and hue, all in one matrix."""

import math
from typing import Any

import albumentations as A
import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114])  # weights of R, G and B in luminance (ITU-R BT.601)


class ColourJitter(A.ImageOnlyTransform):
    """Change colours by factors drawn uniformly.

    In random order: brightness multiplies; contrast spreads values about the picture's mean grey; saturation
    spreads each pixel's channels about its own grey; hue turns them about the grey axis. Each step is affine in
    (R, G, B), so they are one matrix, applied once and cut off to 0..255 at the end: a sixth of the time of
    albumentations' ColorJitter, which goes through HSV and rounds after each step.

    Args:
        strength: Brightness, contrast and saturation are multiplied by 1 - strength to 1 + strength, and hue
            changes by up to a quarter of it to either side, where 1 is the full circle. In (0, 1].
    """

    def __init__(self, strength: float) -> None:
        super().__init__(p=1)
        self.strength = strength

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the factors, and make the matrix."""
        brightness, contrast, saturation = self.random_generator.uniform(1 - self.strength, 1 + self.strength, 3)
        hue = self.random_generator.uniform(-self.strength / 4, self.strength / 4)
        order = self.random_generator.permutation(4)
        mean = np.array(cv2.mean(data["image"])[:3])
        return {"matrix": colour_matrix(mean, brightness, contrast, saturation, hue, order)}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """Apply the matrix (3, 4) to (H, W, 3) uint8."""
        return cv2.transform(img, matrix)


def colour_matrix(
    mean: np.ndarray,
    brightness: float = 1,
    contrast: float = 1,
    saturation: float = 1,
    hue: float = 0,
    order: Any = (0, 1, 2, 3),
) -> np.ndarray:
    """Return the matrix (3, 4) of changes to a picture of this mean (R, G, B).

    Args:
        mean: Of all pixels, 0..255.
        brightness: Factor.
        contrast: Factor on the distance to the mean grey.
        saturation: Factor on the distance to a pixel's grey.
        hue: Part of a full turn.
        order: Of brightness, contrast, saturation and hue.
    """
    total = np.eye(4)
    for step in order:
        one = np.eye(4)
        if step == 0:
            one[:3, :3] *= brightness
        elif step == 1:
            one[:3, :3] *= contrast
            one[:3, 3] = (1 - contrast) * GREY @ (total[:3, :3] @ mean + total[:3, 3])
        elif step == 2:
            one[:3, :3] = saturation * np.eye(3) + (1 - saturation) * GREY
        else:
            one[:3, :3] = _turn(2 * math.pi * hue)
        total = one @ total
    return total[:3]


def _turn(angle: float) -> np.ndarray:
    """Turn (R, G, B) about the grey axis (Rodrigues' formula): by a third of the circle R becomes G."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) / 3 + math.sin(angle) * cross
