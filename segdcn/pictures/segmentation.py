"""Pictures of label maps: image, labels, prediction and errors side by side."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

IGNORED = (235, 235, 235)  # pixels that do not count
TILE_INCHES = 3.2
DPI = 120


def to_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undo the normalisation of an image (3, H, W); returns (H, W, 3) uint8."""
    array = image.detach().cpu().float().numpy().transpose(1, 2, 0)
    array = (array * np.asarray(std) + np.asarray(mean)) * 255
    return np.clip(np.rint(array), 0, 255).astype(np.uint8)


def colour(labels: np.ndarray, palette: Sequence[Sequence[int]], ignore_index: int = 255) -> np.ndarray:
    """Paint a label map (H, W) with its classes' colours; returns (H, W, 3) uint8."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[ignore_index] = IGNORED
    return table[labels]


def shortened(text: str, most: int) -> str:
    """Cut a text that has more than `most` letters, so that it has as many with the ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def to_image(figure: Figure) -> Image.Image:
    """Render a figure; a dollar in its texts is a dollar, and no formula begins there."""
    canvas = FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _patch(rgb: Sequence[int], label: str) -> Patch:
    red, green, blue = (value / 255 for value in rgb)
    return Patch(color=(red, green, blue), label=label)


def panel(
    image: Tensor,
    labels: Tensor,
    prediction: Tensor,
    palette: Sequence[Sequence[int]],
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    ignore_index: int = 255,
) -> Image.Image:
    """Draw image, labels, prediction and errors in a row, with a legend of what occurs.

    Args:
        image: Normalised image (3, H, W).
        labels: Ground truth (H, W), `ignore_index` where it does not count.
        prediction: Class indices (H, W).
        palette: N colours [r, g, b].
        class_names: N names.
        mean: Of the normalisation.
        std: Of the normalisation.
        ignore_index: Label of pixels that do not count.
    """
    truth, guess = labels.cpu().numpy(), prediction.cpu().numpy()
    counted = truth != ignore_index
    wrong = counted & (truth != guess)
    pixels = to_pixels(image, mean, std)
    # Errors on a pale grey image: where they are matters, not what is there.
    grey = np.repeat((255 - (255 - pixels.mean(2, keepdims=True)) * 0.45).astype(np.uint8), 3, axis=2)
    grey[wrong] = (213, 48, 39)
    grey[~counted] = IGNORED
    share = wrong.sum() / max(1, counted.sum())

    height, width = truth.shape
    present = sorted({*np.unique(truth[counted]).tolist(), *np.unique(guess[counted]).tolist()})
    columns = min(6, max(1, len(present) + 1))
    legend_rows = -(-(len(present) + 1) // columns)
    tile_height = TILE_INCHES * height / width
    figure = Figure(figsize=(4 * TILE_INCHES, tile_height + 0.35 + 0.28 * legend_rows + 0.15), dpi=DPI)
    total = figure.get_figheight()
    tiles = {
        "image": pixels,
        "labels": colour(truth, palette, ignore_index),
        "prediction": colour(guess, palette, ignore_index),
        f"errors: {100 * share:.1f} % of pixels": grey,
    }
    for i, (title, tile) in enumerate(tiles.items()):
        axes = figure.add_axes((i / 4 + 0.004, (0.28 * legend_rows + 0.15) / total, 0.242, tile_height * 0.968 / total))
        axes.imshow(tile, interpolation="nearest" if i else "bilinear")
        axes.set_title(title, fontsize=11, pad=5)
        axes.set_axis_off()
    patches = [_patch(palette[c], class_names[c]) for c in present]
    patches.append(_patch(IGNORED, "ignored"))
    figure.legend(
        handles=patches,
        loc="lower center",
        ncols=columns,
        frameon=False,
        fontsize=10,
        handlelength=1.2,
        borderpad=0.2,
    )
    return to_image(figure)
