"""Charts of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from segdcn.pictures.segmentation import shortened, to_image

DPI = 130
LONG_LABEL = 20  # letters of a named place for which there is room between two axes
STOPPED = "0.72"  # grey of lines that ended early
DASHES = (0, (4, 2))
BEST = "#d1495b"  # told from viridis by its width too
POINTS = 24  # of a line between two axes


@dataclass(frozen=True)
class Axis:
    """One vertical axis of a parallel-coordinates chart.

    Attributes:
        name: Written above it.
        values: One for each line.
        labels: For an axis of named places: their names from bottom to top, `values` being indices
            into them. None is an axis of numbers.
        log: Space numbers by their logarithm.
    """

    name: str
    values: Sequence[float]
    labels: Sequence[str] | None = None
    log: bool = False


def parallel_coordinates(
    title: str, axes: Sequence[Axis], score: Axis, stopped: Sequence[bool], best: int | None
) -> Image.Image:
    """Draw each trial of a sweep as a line through its settings to its score.

    Colour is the score, dark is low; what was stopped early is grey and dashed; the best is wide and red.

    Args:
        title: Above all.
        axes: The settings.
        score: The last axis.
        stopped: For each line, whether it ended early.
        best: Index of the best line, if there is one.
    """
    drawn = [*axes, score]
    figure = Figure(figsize=(max(6.0, 1.6 + 1.75 * len(axes)), 4.6), dpi=DPI, layout="constrained")
    place = figure.add_subplot()
    heights = np.array([_heights(axis) for axis in drawn])  # (axes, lines)
    heights[:-1] += _apart(drawn[:-1], heights[:-1], heights[-1])
    colours, shade = _shades(score)
    order = sorted(range(heights.shape[1]), key=lambda line: (line == best, not stopped[line], heights[-1, line]))
    for line in order:
        style: dict[str, Any] = {"color": colours(shade(score.values[line])), "linewidth": 1.5, "alpha": 0.9}
        if stopped[line]:
            style |= {"color": STOPPED, "linestyle": DASHES, "linewidth": 1.1}
        if line == best:
            style |= {"color": BEST, "linewidth": 3.2, "alpha": 1.0}
        place.plot(*_curve(heights[:, line]), solid_capstyle="round", **style)
    for index, axis in enumerate(drawn):
        _draw_axis(place, index, axis, is_last=index == len(axes))
    place.set_title(title, fontsize=11, pad=34, loc="left")
    place.set_xlim(-0.2, len(axes) + 0.3)
    place.set_ylim(-0.06, 1.06)
    place.set_axis_off()
    keys = []
    if best is not None:
        keys.append(Line2D([], [], color=BEST, linewidth=3.2, label="best"))
    if any(stopped):
        keys.append(Line2D([], [], color=STOPPED, linestyle=DASHES, linewidth=1.1, label="stopped early, or failed"))
    figure.legend(handles=keys, loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return to_image(figure)


def _heights(axis: Axis) -> np.ndarray:
    """Place values between 0 and 1."""
    values = np.asarray(axis.values, float)
    if axis.labels is not None:
        return (values + 0.5) / len(axis.labels)
    if axis.log:
        values = np.log10(values)
    low, high = _bounds(axis)
    return (values - low) / (high - low)


def _bounds(axis: Axis) -> tuple[float, float]:
    """Give the ends of an axis of numbers, in the logarithm if it is one of it."""
    values = np.log10(axis.values) if axis.log else np.asarray(axis.values, float)
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.04 or max(abs(low) * 0.1, 0.5)
    return low - margin, high + margin


def _apart(axes: Sequence[Axis], heights: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Move lines through one named place a little apart, in the order of their scores."""
    moved = np.zeros_like(heights)
    for row, axis in enumerate(axes):
        if axis.labels is None:
            continue
        for value in set(axis.values):
            lines = [line for line in range(heights.shape[1]) if axis.values[line] == value]
            lines.sort(key=lambda line: score[line])
            room = 0.5 / len(axis.labels)
            moved[row, lines] = np.linspace(-room / 2, room / 2, len(lines)) if len(lines) > 1 else 0.0
    return moved


def _curve(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the heights by curves that are level at each axis, so that lines can be told apart there."""
    t = np.linspace(0, 1, POINTS)
    ease = t * t * (3 - 2 * t)
    x = np.concatenate([index + t for index in range(len(heights) - 1)])
    pairs = zip(heights[:-1], heights[1:], strict=True)
    return x, np.concatenate([start + (end - start) * ease for start, end in pairs])


def _shades(score: Axis) -> tuple[Colormap, Normalize]:
    """Colour by score; the palest colours of viridis are left out, for a white ground."""
    low, high = min(score.values), max(score.values)
    room = (high - low) or 1.0
    return matplotlib.colormaps["viridis"], Normalize(low, high + 0.25 * room)


def _draw_axis(place: Axes, index: int, axis: Axis, is_last: bool) -> None:
    place.plot([index, index], [0, 1], color="0.25", linewidth=1.0, zorder=5)
    place.text(index, 1.045, _broken(axis.name), ha="center", va="bottom", fontsize=9, fontweight="bold")
    side, align = (0.05, "left") if is_last else (-0.05, "right")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    for height, label in _ticks(axis):
        place.plot([index, index + side * 0.6], [height, height], color="0.25", linewidth=1.0, zorder=5)
        place.text(index + side, height, label, ha=align, va="center", fontsize=8.5, bbox=box, zorder=6)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.labels is not None:
        count = len(axis.labels)
        return [((index + 0.5) / count, shortened(label, LONG_LABEL)) for index, label in enumerate(axis.labels)]
    low, high = _bounds(axis)
    locator: Any = matplotlib.ticker.MaxNLocator(nbins=6, steps=[1, 2, 5, 10])
    if axis.log:
        step = max(1, math.ceil((high - low) / 6))
        exponents = range(math.ceil(low), math.floor(high) + 1, step)
        marks = [float(exponent) for exponent in exponents]
        if len(marks) < 2:  # less than a decade: the ends say more
            marks = [low + 0.04 * (high - low), high - 0.04 * (high - low)]
        return [((mark - low) / (high - low), f"{10**mark:.2g}") for mark in marks]
    marks = [float(mark) for mark in locator.tick_values(low, high) if low <= mark <= high]
    decimals = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 3
    return [((mark - low) / (high - low), f"{mark:.{decimals}f}") for mark in marks]


def _broken(name: str) -> str:
    """Break a dotted name before its last part, so that neighbours have room."""
    group, dot, leaf = name.rpartition(".")
    return f"{group}{dot}\n{leaf}" if group else name
