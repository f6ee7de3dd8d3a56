"""What one deformable layer predicted for one image: displacement, its direction and length, modulation."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import Stroke
from PIL import Image

from segdcn.offsets import SamplingField
from segdcn.pictures.segmentation import DPI, to_image

# Scales are fixed, so that the pictures of different steps can be compared, and square roots, so that offsets of a
# tenth of the dilation show as well as offsets of four times it. In units of the dilation:
DISPLACEMENT = 1.0  # mean displacement at which a direction has its full colour
LENGTH = 4.0  # mean length at the end of the heat map
MOST_ARROWS = 24  # along a side

# Right, down, left, up: as far apart in brightness and along yellow-blue as colour-blind readers need them.
DIRECTIONS = ("#d55e00", "#45257f", "#4aa8e0", "#f2de3a")
RESTING = np.array([0.93, 0.93, 0.93])
INK = "#1a1a1a"


def direction_colours(dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Colour displacements by direction; the shorter, the paler.

    Args:
        dy: In units of DISPLACEMENT, of any shape.
        dx: Likewise.

    Returns:
        (..., 3), red, green and blue in 0..1.
    """
    wheel = LinearSegmentedColormap.from_list("directions", [*DIRECTIONS, DIRECTIONS[0]], N=360)
    hue = wheel(np.arctan2(dy, dx) / (2 * np.pi) % 1)[..., :3]
    strength = np.sqrt(np.hypot(dy, dx)).clip(0, 1)[..., None]
    return RESTING * (1 - strength) + hue * strength


def field_picture(image: np.ndarray, field: SamplingField, group: int = 0) -> Image.Image:
    """Draw one layer's field in four tiles.

    1. Arrows: the mean displacement of the taps, at its true length on the image.
    2. The same as a colour: hue is the direction, paleness a short way; with its wheel.
    3. Mean length of the offsets, in units of the layer's dilation, over the image.
    4. Mean modulation: 1 is that of a plain convolution.

    Args:
        image: Pixels (H, W, 3) uint8.
        field: The layer's.
        group: Offset group to draw.
    """
    offset = field.offset[group].double().numpy()  # (K, 2, Ho, Wo)
    dilations = offset / np.array(field.dilation)[:, None, None]
    length = np.hypot(dilations[:, 0], dilations[:, 1]).mean(0)
    mean = dilations.mean(0) / DISPLACEMENT

    height, width = image.shape[:2]
    tile = 3.1 * min(1.5, max(0.4, height / width))
    figure = Figure(figsize=(6.67, 2 * tile + 2.35), dpi=DPI)
    total = figure.get_figheight()
    axes = []
    for number in range(4):
        row, column = divmod(number, 2)
        bottom = total - (row + 1) * tile - 0.78 - row * 0.88
        axes.append(figure.add_axes((0.02 + 0.49 * column, bottom / total, 0.47, tile / total)))
    figure.text(
        0.02, 1 - 0.12 / total, field.name.removeprefix("encoder."), fontsize=13, color=INK, va="top", weight="bold"
    )

    pale = _pale(image)
    for each in axes:
        each.imshow(pale, interpolation="bilinear")
    _arrows(axes[0], field, offset.mean(0))
    _title(axes[0], "mean displacement")
    _cells(axes[1], field, direction_colours(mean[0], mean[1]), alpha=0.9)
    _title(axes[1], "its direction")
    heat = _heat(axes[2], field, length, "cividis", PowerNorm(0.5, 0, LENGTH))
    _title(axes[2], "mean offset length")
    factor = _heat(axes[3], field, field.modulation[group].double().numpy().mean(0), "PuOr_r", Normalize(0, 2))
    _title(axes[3], "modulation" if field.modulated else "modulation (none)")
    _note(figure, axes[0], "true length on the image")
    _wheel(figure, axes[1])
    _bar(figure, axes[2], heat, [0, 0.25, 1, LENGTH], ["0", "¼", "1", f"{LENGTH:g} dilations"])
    _bar(figure, axes[3], factor, [0, 1, 2], ["0", "1", "2"])
    for each in axes:
        each.set_xlim(-0.5, width - 0.5)
        each.set_ylim(height - 0.5, -0.5)
        each.set_axis_off()
    return to_image(figure)


def _pale(image: np.ndarray) -> np.ndarray:
    grey = image.astype(np.float32).mean(2, keepdims=True).repeat(3, 2)
    return (255 - (255 - grey) * 0.4).astype(np.uint8)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=13, color=INK, pad=5, loc="left")


def _extent(field: SamplingField) -> tuple[float, float, float, float]:
    """Give left, right, bottom and top of the output's cells on the image."""
    (height, width), frame = field.output_size, field.output_frame
    top, left = frame.start[0] - frame.stride[0] / 2, frame.start[1] - frame.stride[1] / 2
    return left, left + width * frame.stride[1], top + height * frame.stride[0], top


def _cells(axes: Axes, field: SamplingField, values: np.ndarray, **drawing: Any) -> Any:
    return axes.imshow(values, extent=_extent(field), interpolation="nearest", **drawing)


def _heat(axes: Axes, field: SamplingField, values: np.ndarray, colours: str, scale: Normalize) -> Any:
    return _cells(axes, field, values, cmap=colours, norm=scale, alpha=0.9)


def _arrows(axes: Axes, field: SamplingField, mean: np.ndarray) -> None:
    """Draw the mean offset (2, Ho, Wo), in pixels of the layer's input, at its true length on the image."""
    (height, width), frame = field.output_size, field.output_frame
    step = -(-max(height, width) // MOST_ARROWS)
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    y, x = frame.start[0] + rows * frame.stride[0], frame.start[1] + columns * frame.stride[1]
    down = mean[0][rows, columns] * field.input_frame.stride[0]
    right = mean[1][rows, columns] * field.input_frame.stride[1]
    arrows = axes.quiver(
        *(x, y, right, down),
        angles="xy",
        scale_units="xy",
        scale=1,
        units="inches",
        width=0.022,
        headwidth=4.5,
        headlength=4.5,
        headaxislength=4,
        minlength=0.5,
        minshaft=1.5,
        color="#b3261e",
    )
    arrows.set_path_effects([Stroke(linewidth=1.6, foreground="white"), Stroke(linewidth=0.1, foreground="#b3261e")])


def _bar(figure: Figure, axes: Axes, drawn: Any, ticks: list[float], names: list[str]) -> None:
    """Draw a colour bar below a tile."""
    box, total = axes.get_position(), figure.get_figheight()
    place = figure.add_axes((box.x0 + 0.02, box.y0 - 0.24 / total, box.width - 0.14, 0.13 / total))
    bar = figure.colorbar(drawn, cax=place, orientation="horizontal", ticks=ticks)
    bar.ax.set_xticklabels(names)
    bar.ax.tick_params(labelsize=12, length=2, pad=2, colors=INK)
    bar.outline.set_linewidth(0.6)


def _wheel(figure: Figure, axes: Axes) -> None:
    """Draw the legend of the directions below a tile."""
    box, total, size = axes.get_position(), figure.get_figheight(), 0.52
    y, x = np.mgrid[-1:1:121j, -1:1:121j]
    disc = np.dstack([direction_colours(y, x), np.hypot(y, x) <= 1])
    place = figure.add_axes((box.x0, box.y0 - (size + 0.05) / total, size / figure.get_figwidth(), size / total))
    place.imshow(disc, interpolation="bilinear")
    place.set_axis_off()
    _note(figure, axes, f"rim: {DISPLACEMENT:g} dilation", after=size + 0.1)


def _note(figure: Figure, axes: Axes, text: str, after: float = 0.0) -> None:
    """Write a line below a tile, `after` inches from its left."""
    box = axes.get_position()
    x, y = box.x0 + after / figure.get_figwidth(), box.y0 - 0.31 / figure.get_figheight()
    figure.text(x, y, text, fontsize=12, color=INK, va="center")
