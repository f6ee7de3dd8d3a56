"""Effective dilation by size and class of objects: table and histograms in one, and its course over a run."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from segdcn.pictures.segmentation import DPI, to_image

# Okabe and Ito's, from dark to light too; and a line style each.
SIZE_STYLES = {
    "small": ("#56b4e9", "-", "o"),
    "medium": ("#0072b2", "--", "s"),
    "large": ("#d55e00", "-", "^"),
    "background": ("#6b6b6b", ":", "D"),
}
CLASS_COLOUR = "#009e73"
INK, FAINT = "#1a1a1a", "#d9d9d9"
UNIT = "pixels of the layer's input"
WIDTH = 6.67  # inches
NAMES_WIDTH = 1.66  # inches, left of the panels
NUMBERS_WIDTH = 0.96  # inches, right of each panel


def dilation_picture(
    layers: Sequence[str], by_size: Mapping[str, Tensor], by_class: Mapping[str, Tensor]
) -> Image.Image:
    """Draw one row per group of objects and one column per layer: histogram, mean and standard deviation.

    A column's axis holds the middle 99 % of its values; what lies outside is drawn at its ends.

    Args:
        layers: Names of the layers; the last three are drawn.
        by_size: Values (M, layers) of small, medium, large and background.
        by_class: Values (M, layers) of each class.
    """
    shown = range(max(0, len(layers) - 3), len(layers))
    groups = {name: (values, SIZE_STYLES[name][0]) for name, values in by_size.items() if len(values)}
    num_sizes = len(groups)
    classes = {name: values for name, values in by_class.items() if len(values) and name != "background"}
    groups |= {f"class {name}": (values, CLASS_COLOUR) for name, values in classes.items()}
    row, gap, head, foot = 0.36, 0.16, 1.0, 0.4
    figure = Figure(figsize=(WIDTH, head + row * len(groups) + gap + foot), dpi=DPI)
    total = figure.get_figheight()
    figure.text(0.02, 1 - 0.12 / total, "Effective dilation", fontsize=14, weight="bold", color=INK, va="top")
    figure.text(
        0.02, 1 - 0.42 / total, f"objects, distribution and mean ± std, in {UNIT}", fontsize=11.5, color=INK, va="top"
    )
    left, column_width = NAMES_WIDTH / WIDTH, (1 - NAMES_WIDTH / WIDTH - 0.01) / len(shown)
    height = (row * len(groups) + gap) / total
    for column, layer in enumerate(shown):
        place = (left + column * column_width, foot / total, column_width - NUMBERS_WIDTH / WIDTH, height)
        axes = figure.add_axes(place)
        ends = _ends(np.concatenate([values[:, layer].numpy() for values, _ in groups.values()]))
        axes.set_xlim(*ends)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=2, min_n_ticks=2))
        axes.set_ylim(row * len(groups) + gap, 0)
        axes.set_title(_short(layers[layer]), fontsize=11.5, color=INK, pad=4, loc="left")
        axes.set_yticks([])
        axes.tick_params(labelsize=11, colors=INK)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        for number, (values, colour) in enumerate(groups.values()):
            bottom = (number + 1) * row + (gap if number >= num_sizes else 0)
            _ridge(axes, values[:, layer].numpy(), bottom, row, ends, colour)
    for number, (name, (values, _)) in enumerate(groups.items()):
        middle = (number + 0.62) * row + (gap if number >= num_sizes else 0)
        y = 1 - (head + middle) / total
        figure.text(0.02, y, name.removeprefix("class "), fontsize=12, color=INK, va="center")
        figure.text(left - 0.02, y, f"{len(values)}", fontsize=10, color="#555555", va="center", ha="right")
    return to_image(figure)


def _ridge(axes: Axes, values: np.ndarray, bottom: float, row: float, ends: tuple[float, float], colour: str) -> None:
    """Draw a histogram standing on `bottom`, its mean, and both numbers."""
    counts, edges = np.histogram(values.clip(*ends), bins=28, range=ends)
    heights = counts / max(1, counts.max()) * row * 0.78
    axes.stairs(bottom - heights, edges, baseline=bottom, fill=True, color=colour, alpha=0.55)
    mean, spread = values.mean(), values.std()
    axes.plot([mean, mean], [bottom, bottom - row * 0.85], color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.text(
        ends[1] + 0.05 * (ends[1] - ends[0]),
        bottom - row * 0.1,
        f"{mean:.2f} ± {spread:.2f}",
        fontsize=11,
        color=INK,
        va="bottom",
    )


def _ends(values: np.ndarray, beyond: float = 0.5) -> tuple[float, float]:
    """Give the ends of an axis of 0.8 or more that holds the values but for `beyond` per cent at each end."""
    low, high = np.percentile(values, [beyond, 100 - beyond])
    margin = max(0.08 * (high - low), 0.8 - (high - low)) / 2
    return float(low - margin), float(high + margin)


def course_picture(layers: Sequence[str], history: Sequence[tuple[int, Mapping[str, Sequence[float]]]]) -> Image.Image:
    """Draw how the mean effective dilation of each size went over the steps of a run, one panel per layer.

    Args:
        layers: Names of the layers; the last three are drawn.
        history: (step, {size: mean of each layer}).
    """
    shown = list(range(max(0, len(layers) - 3), len(layers)))
    drawn = [means[layer] for _, sizes in history for means in sizes.values() for layer in shown]
    ends = _ends(np.array(drawn), beyond=0)
    figure = Figure(figsize=(WIDTH, 3.4), dpi=DPI)
    figure.text(0.02, 0.97, "Effective dilation over training", fontsize=14, weight="bold", color=INK, va="top")
    panel = (1 - 0.1) / len(shown)
    for column, layer in enumerate(shown):
        axes = figure.add_axes((0.085 + column * panel, 0.26, panel - 0.025, 0.53))
        for size, (colour, line, marker) in SIZE_STYLES.items():
            course = [(step, sizes[size][layer]) for step, sizes in history if size in sizes]
            if course:
                steps, values = zip(*course, strict=True)
                axes.plot(
                    steps,
                    values,
                    line,
                    color=colour,
                    marker=marker,
                    label=size,
                    markersize=4.5,
                    linewidth=2,
                    clip_on=False,
                )
        axes.set_ylim(*ends)
        axes.set_xlim(0, history[-1][0] * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axes.set_title(_short(layers[layer]), fontsize=11.5, color=INK, pad=5)
        axes.tick_params(labelsize=11, colors=INK, labelleft=column == 0)
        axes.grid(color=FAINT, linewidth=0.6)
        for side in ("right", "top"):
            axes.spines[side].set_visible(False)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="lower center", ncols=4, frameon=False, fontsize=12, borderpad=0, columnspacing=1.4
    )
    figure.text(0.5, 0.135, "step", fontsize=11.5, color=INK, ha="center", va="center")
    return to_image(figure)


def _short(layer: str) -> str:
    return layer.removeprefix("encoder.")
