"""A picture of which class was taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from segdcn.pictures.segmentation import DPI, to_image

CELL_INCHES = 0.42
# Dark blue to yellow: as light grows so does the share, in every kind of colour vision and in grey.
COLOURS = colormaps["cividis"]
FRAME = "#d55e00"  # Okabe and Ito's vermillion


def confusion_picture(matrix: np.ndarray, class_names: Sequence[str], title: str = "") -> Image.Image:
    """Draw a confusion matrix, each row in percent of the row.

    A row is a class in the labels, a column what it was predicted as; so the diagonal is the recall.
    Shares that round to 0 % have no number, and a class without a labelled pixel no row of colours.

    Args:
        matrix: Pixels (N, N), labels by prediction.
        class_names: N names.
        title: Heading.
    """
    count = len(class_names)
    rows = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, rows, out=np.full(matrix.shape, np.nan), where=rows > 0)
    longest = max(len(name) for name in class_names)
    margin = 0.3 + 0.078 * longest  # inches for the names
    side = max(CELL_INCHES * count, 3.6)
    width, height = margin + side + 0.95, margin + side + 0.7
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((margin / width, 0.3 / height, side / width, side / height))
    # Differences among rare mistakes are what one looks for: the colour follows the root of the share.
    axes.imshow(np.sqrt(share), cmap=COLOURS, vmin=0, vmax=1)
    for row, column in np.argwhere(share >= 0.005).tolist():
        value = share[row, column]
        ink = "black" if np.sqrt(value) > 0.55 else "white"
        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=ink)
    for place in range(count):  # framed, since a poor network's diagonal does not stand out
        axes.add_patch(Rectangle((place - 0.46, place - 0.46), 0.92, 0.92, fill=False, edgecolor=FRAME, linewidth=1.4))
    for row in np.flatnonzero(rows[:, 0] == 0).tolist():
        axes.text(count / 2 - 0.5, row, "no labelled pixel", ha="center", va="center", fontsize=9, color="#555555")
    axes.set_xticks(range(count), class_names, rotation=90, fontsize=9)
    axes.set_yticks(range(count), class_names, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=12)
    figure.text(
        0.5,
        0.12 / height,
        "rows: labels; columns: predictions; % of the row; framed: right",
        ha="center",
        va="center",
        fontsize=9,
    )

    bar = figure.add_axes(((margin + side + 0.15) / width, 0.3 / height, 0.14 / width, side / height))
    bar.imshow(np.linspace(1, 0, 256)[:, None], cmap=COLOURS, aspect="auto", extent=(0, 1, 0, 1))
    ticks = [0, 1, 5, 10, 25, 50, 75, 100]
    bar.set_yticks([np.sqrt(tick / 100) for tick in ticks], [f"{tick} %" for tick in ticks], fontsize=8)
    bar.yaxis.tick_right()
    bar.set_xticks([])
    bar.tick_params(length=2)
    bar.spines[:].set_visible(False)
    return to_image(figure)
