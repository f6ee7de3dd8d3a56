"""Pictures of where deformable layers look."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from segdcn.offsets import Points
from segdcn.pictures.segmentation import DPI, TILE_INCHES, to_image

# Okabe and Ito's palette, which colour-blind readers can tell apart, white and grey; one per tap.
TAP_COLOURS = np.array(
    ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff", "#999999"]
)


def choose_places(labels: np.ndarray, count: int = 3, ignore_index: int = 255) -> list[tuple[float, float, int]]:
    """Choose places worth asking about: inside the largest regions of different classes.

    Args:
        labels: Class indices (H, W).
        count: How many at most.
        ignore_index: Label that is no class.

    Returns:
        (y, x, class) of each, the place being the point of the region farthest from its
        border; regions of other classes than 0 first, from large to small.
    """
    found = []
    for label in np.unique(labels[labels != ignore_index]).tolist():
        _, regions, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        # A border of zeros, so that the image's edge counts as the region's border.
        distance = cv2.distanceTransform(np.pad((regions == largest).astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        y, x = np.unravel_index(int(distance.argmax()), distance.shape)
        found.append((label == 0, -int(stats[largest, cv2.CC_STAT_AREA]), (float(y), float(x), int(label))))
    return [place for _, _, place in sorted(found)[:count]]


def sampling_picture(
    image: np.ndarray,
    places: Sequence[tuple[float, float, str]],
    points: Sequence[Sequence[Points]],
    titles: Sequence[str],
) -> Image.Image:
    """Draw the points that a place reads through one, two, three ... layers.

    One row per place, one column per number of layers, as in the paper's figure 5. The
    cross is the place. A point's colour tells through which tap of the last layer it is
    read, its area how strongly it is modulated.

    Args:
        image: Pixels (H, W, 3) uint8.
        places: (y, x, name) of each row.
        points: points[row][column].
        titles: Heading of each column.
    """
    height, width = image.shape[:2]
    rows, columns = len(places), len(titles)
    tile_width, tile_height = TILE_INCHES, TILE_INCHES * height / width
    header = 0.45
    figure = Figure(figsize=(columns * tile_width, rows * tile_height + header), dpi=DPI)
    total = figure.get_figheight()
    pale = (255 - (255 - image.astype(np.float32)) * 0.75).astype(np.uint8)  # the points stand out
    for row, (y, x, name) in enumerate(places):
        for column in range(columns):
            bottom = (rows - 1 - row) * tile_height / total
            axes = figure.add_axes(
                (column / columns + 0.003, bottom + 0.003, 1 / columns - 0.006, tile_height / total - 0.006)
            )
            axes.imshow(pale, interpolation="bilinear")
            read = points[row][column]
            # Points shrink with their number, so that 729 still leave the image to be seen.
            area = 90 * len(read.weight) ** -0.35 * read.weight.numpy().clip(0.3, 4)
            axes.scatter(
                read.x.numpy(),
                read.y.numpy(),
                s=area,
                c=TAP_COLOURS[read.tap.numpy() % len(TAP_COLOURS)],
                edgecolors="black",
                linewidths=0.8 if len(read.weight) < 100 else 0.4,
            )
            outside = int(((read.y < 0) | (read.y > height - 1) | (read.x < 0) | (read.x > width - 1)).sum())
            if outside:
                _note(axes, 0.98, 0.03, f"{outside} outside", horizontalalignment="right", verticalalignment="bottom")
            axes.plot(x, y, "+", color="white", markersize=15, markeredgewidth=4.5)
            axes.plot(x, y, "+", color="#d0021b", markersize=13, markeredgewidth=2.2)
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(height - 0.5, -0.5)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(titles[column], fontsize=11, pad=6)
            if column == 0:
                _note(axes, 0.02, 0.97, name, horizontalalignment="left", verticalalignment="top")
    return to_image(figure)


def _note(axes: Axes, x: float, y: float, text: str, **alignment: Any) -> None:
    """Write on a pale patch at (x, y), in shares of the tile."""
    patch = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2.5}
    axes.text(x, y, text, transform=axes.transAxes, fontsize=11, bbox=patch, **alignment)
