"""Pictures of the points that deformable layers read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from segdcn.offsets import Points, SamplingField, pixel_centre, regions, trace
from segdcn.pictures.segmentation import DPI, to_image

# Okabe and Ito's palette, which colour-blind readers can tell apart, white and grey; one per tap.
TAP_COLOURS = np.array(
    ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff", "#999999"]
)

# How many of the last deformable layers are followed: 9, 81, 729 points.
CHAIN = 3
WIDTH = 6.67  # inches; with DPI 800 pixels, which stay legible at half their size
HEAD, FOOT = 0.42, 0.5  # inches above and below the tiles
WEAKEST = 0.2  # modulation below which dots get no smaller: their colour would not be seen any more
CROSS = "#d0021b"


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
    largest = {}
    for region in sorted(regions(labels, ignore_index=ignore_index, smallest=1), key=lambda region: region.area):
        largest[region.label] = region
    found = sorted(largest.values(), key=lambda region: (region.label == 0, -region.area))
    return [(region.y, region.x, region.label) for region in found[:count]]


def follow(
    image: np.ndarray, fields: Sequence[SamplingField], places: Sequence[tuple[float, float, str]], group: int = 0
) -> Image.Image:
    """Draw what the last one, two and three deformable layers read together for a few places.

    Args:
        image: Pixels (H, W, 3) uint8.
        fields: The layers', in running order.
        places: (y, x, name) of each row; the output pixel nearest to it is asked, and marked.
        group: Offset group to follow.
    """
    chains = [fields[-length:] for length in range(1, min(CHAIN, len(fields)) + 1)]
    taps = fields[-1].offset.shape[1]
    titles = [f"{len(chain)} layer{'s' * (len(chain) > 1)}: {taps ** len(chain)}" for chain in chains]
    asked = [(*pixel_centre(fields[-1], (y, x)), name) for y, x, name in places]
    points = [[trace(chain, (y, x), group) for chain in chains] for y, x, _ in asked]
    return sampling_picture(image, asked, points, titles, fields[-1].kernel_size)


def sampling_picture(
    image: np.ndarray,
    places: Sequence[tuple[float, float, str]],
    points: Sequence[Sequence[Points]],
    titles: Sequence[str],
    kernel: tuple[int, int] = (3, 3),
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
        kernel: (kh, kw) of the last layer, for the legend.
    """
    height, width = image.shape[:2]
    rows, columns = len(places), len(titles)
    tile = WIDTH / max(2, columns)
    tile_height = tile * height / width
    figure = Figure(figsize=(columns * tile, HEAD + rows * tile_height + FOOT), dpi=DPI)
    total = figure.get_figheight()
    pale = (255 - (255 - image.astype(np.float32)) * 0.6).astype(np.uint8)  # the points stand out
    for row, (y, x, name) in enumerate(places):
        for column in range(columns):
            bottom = (FOOT + (rows - 1 - row) * tile_height) / total
            axes = figure.add_axes(
                (column / columns + 0.004, bottom + 0.004, 1 / columns - 0.008, tile_height / total - 0.008)
            )
            axes.imshow(pale, interpolation="bilinear")
            read = points[row][column]
            _scatter(axes, read)
            outside = int(((read.y < 0) | (read.y > height - 1) | (read.x < 0) | (read.x > width - 1)).sum())
            if outside:
                _note(axes, 0.97, 0.03, f"{outside} outside", horizontalalignment="right", verticalalignment="bottom")
            axes.plot(x, y, "+", color="white", markersize=14, markeredgewidth=4.5)
            axes.plot(x, y, "+", color=CROSS, markersize=12, markeredgewidth=2.4)
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(height - 0.5, -0.5)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(titles[column], fontsize=13, pad=6)
            if column == 0:
                _note(axes, 0.03, 0.97, name, horizontalalignment="left", verticalalignment="top")
    _legend(figure, kernel)
    return to_image(figure)


def _scatter(axes: Axes, read: Points) -> None:
    areas = 200 * max(1, len(read.weight)) ** -0.4 * read.weight.numpy().clip(WEAKEST, 4)
    axes.scatter(
        read.x.numpy(),
        read.y.numpy(),
        s=areas,
        c=TAP_COLOURS[read.tap.numpy() % len(TAP_COLOURS)],
        edgecolors="black",
        linewidths=(0.1 * np.sqrt(areas)).clip(0.2, 0.9),
    )


def _legend(figure: Figure, kernel: tuple[int, int]) -> None:
    """Draw the colours of the taps in their places in the kernel, and say what colour and area are."""
    width, total = figure.get_figwidth(), figure.get_figheight()
    side = FOOT - 0.08  # inches
    axes = figure.add_axes((0.06 / width, 0.04 / total, side * kernel[1] / kernel[0] / width, side / total))
    rows, columns = np.mgrid[: kernel[0], : kernel[1]]
    colours = TAP_COLOURS[np.arange(rows.size) % len(TAP_COLOURS)]
    dot = (0.7 * 72 * side / kernel[0]) ** 2  # points squared; dots seven tenths of their distance wide
    axes.scatter(columns.ravel(), rows.ravel(), s=dot, c=colours, edgecolors="black", linewidths=0.6)
    axes.set_xlim(-0.5, kernel[1] - 0.5)
    axes.set_ylim(kernel[0] - 0.5, -0.5)
    axes.set_axis_off()
    text = "colour: tap of the last layer\narea: modulation"
    figure.text((0.16 + side * kernel[1] / kernel[0]) / width, FOOT / 2 / total, text, fontsize=12, va="center")


def _note(axes: Axes, x: float, y: float, text: str, **alignment: Any) -> None:
    """Write on a pale patch at (x, y), in shares of the tile."""
    patch = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2.5}
    axes.text(x, y, text, transform=axes.transAxes, fontsize=12, bbox=patch, **alignment)
