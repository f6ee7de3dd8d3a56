"""Labels laid over their picture, and the legend of their colours."""

import colorsys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from segdcn.pictures.segmentation import DPI, shortened, to_image

LONG_NAME = 24  # letters of a class's name for which a column of the legend has room


def overlay(picture: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Mix a picture (H, W, 3) half and half with the colours of its labels (H, W), with a white line between classes.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = labels.shape
    mixed = (picture.astype(np.uint16) + np.asarray(palette, np.uint8)[labels]) // 2
    line = np.zeros((height, width), bool)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    for _ in range(max(height, width) // 1000):  # as visible in large pictures
        line[1:] |= line[:-1]
        line[:, 1:] |= line[:, :-1]
    mixed[line] = 255
    return mixed.astype(np.uint8)


def legend(palette: Sequence[Sequence[int]], class_names: Sequence[str]) -> Image.Image:
    """Draw the colour of each class beside its name."""
    columns = min(3, -(-len(class_names) // 8))
    rows = -(-len(class_names) // columns)
    names = [shortened(name, LONG_NAME) for name in class_names]
    column_inches = 0.6 + 0.085 * max(map(len, names))
    figure = Figure(figsize=(max(1.6, columns * column_inches), 0.2 + 0.24 * rows), dpi=DPI)
    patches = [
        Patch(facecolor=(red / 255, green / 255, blue / 255), edgecolor="0.5", linewidth=0.6, label=name)
        for (red, green, blue), name in zip(palette, names, strict=True)
    ]
    figure.legend(handles=patches, loc="center", ncols=columns, frameon=False, fontsize=10, handlelength=1.6)
    return to_image(figure)


def spread_colours(count: int) -> list[list[int]]:
    """Give colours that are far apart: hues a golden section of the circle from one to the next, in three lightnesses.

    Class 0 is black, as background is elsewhere.
    """
    found = [[0, 0, 0]]
    for index in range(count - 1):
        hue, lightness = (index * 0.618034) % 1, (0.5, 0.35, 0.7)[index % 3]
        found.append([round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, 0.8)])
    return found
