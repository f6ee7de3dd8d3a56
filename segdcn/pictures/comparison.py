"""Pictures of a comparison: scores by variant and seed, and images on which variants differ."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from segdcn.pictures.segmentation import DPI, IGNORED, colour, to_image

# Okabe and Ito's, from dark to light too, and a marker each, for the seeds.
SEED_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"))
INK, FAINT, SOFT = "#1a1a1a", "#d9d9d9", "#6b6b6b"
BETTER, WORSE = (0, 114, 178), (230, 159, 0)  # blue and orange: told apart in every kind of colour vision, and in grey
WRONG = (70, 70, 70)
AXES_WIDTH = 5.3  # inches
TILE_WIDTH = 2.5  # inches
IN_A_ROW = 3  # variants beside each other


def scores_picture(measure: str, scores: Mapping[str, Mapping[int, float]]) -> Image.Image:
    """Draw every seed's score of every variant, with mean and standard deviation.

    A line joins the scores of one seed, so that one sees whether all seeds agree on a difference.

    Args:
        measure: What is drawn, with its unit.
        scores: By variant, from top to bottom, and seed.
    """
    seeds = sorted({seed for values in scores.values() for seed in values})
    row, head, foot = 0.52, 0.55, 0.78
    names, numbers = 0.35 + 0.082 * max(map(len, scores)), 1.35  # inches, left and right of the axes
    width, total = names + AXES_WIDTH + numbers, head + row * len(scores) + foot
    figure = Figure(figsize=(width, total), dpi=DPI)
    place = (names / width, foot / total, AXES_WIDTH / width, row * len(scores) / total)
    axes = figure.add_axes(place)
    for number, values in enumerate(scores.values()):
        _mean(axes, number, list(values.values()))
    for index, seed in enumerate(seeds):
        drawn, marker = SEED_STYLES[index % len(SEED_STYLES)]
        apart = 0.3 * (index - (len(seeds) - 1) / 2) / len(seeds)  # equal scores stay visible
        points = [(values[seed], number + apart) for number, values in enumerate(scores.values()) if seed in values]
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=drawn, linewidth=1.0, alpha=0.45, zorder=2)
        axes.plot(x, y, marker, color=drawn, markersize=7, markeredgecolor="white", markeredgewidth=0.8, zorder=4)
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlim(*_ends([value for values in scores.values() for value in values.values()]))
    axes.set_yticks(range(len(scores)), list(scores), fontsize=10.5, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.tick_params(axis="x", labelsize=10, colors=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["left", "right", "top"]].set_visible(False)
    for number, values in enumerate(scores.values()):
        axes.annotate(
            _told(list(values.values())),
            (1, number),
            (10, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            fontsize=10.5,
            color=INK,
            annotation_clip=False,
        )
    figure.text(0.2 / width, 1 - 0.14 / total, measure, fontsize=13, weight="bold", color=INK, va="top")
    keys = [
        Line2D([], [], color=c, marker=m, markersize=7, markeredgecolor="white", linewidth=1.0, label=f"seed {seed}")
        for seed, (c, m) in zip(seeds, SEED_STYLES, strict=False)
    ]
    if len(seeds) > len(SEED_STYLES):
        keys = [Line2D([], [], color=SOFT, marker="o", linewidth=1.0, label="one line per seed")]
    if len(seeds) > 1:
        keys.append(Line2D([], [], color=INK, linewidth=5, alpha=0.25, label="mean ± standard deviation"))
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, fontsize=10, columnspacing=1.5)
    return to_image(figure)


def _mean(axes: Axes, row: int, values: Sequence[float]) -> None:
    mean = float(np.mean(values))
    axes.plot([mean, mean], [row - 0.3, row + 0.3], color=INK, linewidth=2, zorder=3, solid_capstyle="butt")
    if len(values) > 1:
        spread = float(np.std(values, ddof=1))
        axes.plot([mean - spread, mean + spread], [row, row], color=INK, linewidth=9, alpha=0.18, zorder=1)


def _told(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{spread}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.5
    return low - margin, high + margin


def example_picture(
    image: np.ndarray,
    labels: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    palette: Sequence[Sequence[int]],
    class_names: Sequence[str],
    ignore_index: int = 255,
) -> Image.Image:
    """Draw an image, its labels, and what each variant makes of it.

    Below the first variant's prediction are its errors, below the others' what is right or wrong that was
    not with the first.

    Args:
        image: Pixels (H, W, 3) uint8.
        labels: Class ids (H, W), `ignore_index` where nothing counts.
        predictions: By variant, class ids (H, W).
        palette: N colours [r, g, b].
        class_names: N names.
        ignore_index: Label of pixels that do not count.
    """
    variants = list(predictions)
    first = predictions[variants[0]]
    columns = 1 + min(IN_A_ROW, len(variants))
    blocks = -(-len(variants) // IN_A_ROW)
    counted = labels != ignore_index
    shown = np.unique(np.concatenate([np.unique(ids) for ids in (labels[counted], *predictions.values())]))
    present = [int(index) for index in shown if index < len(palette)]
    keys = [_patch(palette[index], class_names[index]) for index in present]
    keys += [] if counted.all() else [_patch(IGNORED, "ignored")]
    in_a_row = max(2, min(len(keys), int(columns * TILE_WIDTH / 1.35)))
    title = 0.27
    tile = TILE_WIDTH * image.shape[0] / image.shape[1]
    foot = 0.26 * -(-len(keys) // in_a_row) + 0.12
    foot_changes = 0.28
    figure = Figure(figsize=(columns * TILE_WIDTH, blocks * 2 * (tile + title) + foot + foot_changes), dpi=DPI)
    total = figure.get_figheight()

    def put(column: int, row: int, pixels: np.ndarray, heading: str, smooth: bool = False) -> None:
        left = (column + 0.015) / columns
        bottom = 1 - ((row + 1) * (tile + title)) / total
        axes = figure.add_axes((left, bottom, 0.97 / columns, tile / total))
        axes.imshow(pixels, interpolation="bilinear" if smooth else "nearest", aspect="auto")
        axes.set_title(heading, fontsize=min(9.5, 72 * TILE_WIDTH / (0.58 * len(heading))), pad=4, color=INK)
        axes.set_axis_off()

    put(0, 0, image, "image", smooth=True)
    put(0, 1, colour(labels, palette, ignore_index), "labels")
    for number, name in enumerate(variants):
        block, column = divmod(number, IN_A_ROW)
        right = counted & (predictions[name] == labels)
        share = right.sum() / max(1, counted.sum())
        put(column + 1, 2 * block, colour(predictions[name], palette, ignore_index), f"{name}: {share:.1%} right")
        if number:
            heading = f"{(right & ~(first == labels)).sum() / max(1, counted.sum()):.1%} better, "
            heading += f"{(counted & (first == labels) & ~right).sum() / max(1, counted.sum()):.1%} worse"
        else:
            heading = f"{1 - share:.1%} wrong"
        put(column + 1, 2 * block + 1, _changes(image, labels, counted, first, predictions[name]), heading)
    name = variants[0] if len(variants[0]) <= 20 else "the first"
    changes = {f"right, where {name} is not": BETTER, "wrong, where it is right": WORSE, "both wrong": WRONG}
    figure.legend(
        handles=[_patch(rgb, text) for text, rgb in changes.items()],
        loc="lower center",
        bbox_to_anchor=(0.5, foot / total),
        ncols=3,
        frameon=False,
        fontsize=9.5,
        handlelength=1.2,
        borderpad=0.1,
    )
    figure.legend(
        handles=keys, loc="lower center", ncols=in_a_row, frameon=False, fontsize=9.5, handlelength=1.2, borderpad=0.1
    )
    return to_image(figure)


def _changes(
    image: np.ndarray, labels: np.ndarray, counted: np.ndarray, first: np.ndarray, other: np.ndarray
) -> np.ndarray:
    """Paint on a pale grey image where a variant is right or wrong, compared with the first one."""
    pixels = image.mean(2, keepdims=True)
    painted = np.repeat((255 - (255 - pixels) * 0.3).astype(np.uint8), 3, axis=2)
    before, now = first == labels, other == labels
    painted[counted & ~before & ~now] = WRONG
    painted[counted & ~before & now] = BETTER
    painted[counted & before & ~now] = WORSE
    painted[~counted] = IGNORED
    return painted


def _patch(rgb: Sequence[int], label: str) -> Patch:
    red, green, blue = (value / 255 for value in rgb)
    return Patch(facecolor=(red, green, blue), edgecolor="#777777", linewidth=0.5, label=label)
