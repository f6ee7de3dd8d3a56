"""Pictures as Weights & Biases shows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

IGNORED = 255


@dataclass(frozen=True)
class Overlay:
    """A picture with label maps that W&B lays over it.

    Attributes:
        name: Its caption.
        pixels: (H, W, 3) uint8.
        labels: Ground truth (H, W) uint8, 255 where there is none.
        prediction: Class indices (H, W) uint8.
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    prediction: np.ndarray

    def reduced(self, max_side: int) -> "Overlay":
        """Make the longer side `max_side` pixels long, if it is longer.

        A pixel of the picture becomes the mean of what it covers; one of a label map the label in its middle.
        """
        height, width = self.labels.shape
        factor = max_side / max(height, width)
        if factor >= 1:
            return self
        size = (max(1, round(factor * width)), max(1, round(factor * height)))

        def smaller(array: np.ndarray, how: Image.Resampling) -> np.ndarray:
            return np.asarray(Image.fromarray(array).resize(size, how))

        return Overlay(
            self.name,
            smaller(self.pixels, Image.Resampling.BOX),
            smaller(self.labels, Image.Resampling.NEAREST),
            smaller(self.prediction, Image.Resampling.NEAREST),
        )


# wandb is imported inside: it takes a second, and a run may go without.


def overlay_images(overlays: Sequence[Overlay], class_names: Sequence[str]) -> list[Any]:
    """Make JPEGs with the masks `prediction` and `ground_truth`, as PNGs of class ids, and the classes' names.

    W&B shows the pictures of a list in the size of its first, so all get the size of the largest: a margin
    at the bottom and on the right, white and ignored.
    """
    import wandb

    names = dict(enumerate(class_names)) | {IGNORED: "ignored"}
    sizes = [overlay.labels.shape for overlay in overlays]

    def mask(ids: np.ndarray) -> dict[str, Any]:
        return {"mask_data": _padded(ids, sizes, IGNORED), "class_labels": names}

    return [
        wandb.Image(
            _padded(overlay.pixels, sizes, 255),
            caption=overlay.name,
            file_type="jpg",
            masks={"prediction": mask(overlay.prediction), "ground_truth": mask(overlay.labels)},
        )
        for overlay in overlays
    ]


def drawn_images(drawings: Mapping[str, Image.Image]) -> list[Any]:
    """Make JPEGs of one size of drawings, by their captions; a PNG of one takes W&B a sixth of a second."""
    import wandb

    arrays = {caption: np.asarray(drawing) for caption, drawing in drawings.items()}
    sizes = [array.shape for array in arrays.values()]
    return [
        wandb.Image(_padded(array, sizes, 255), caption=caption, file_type="jpg") for caption, array in arrays.items()
    ]


def _padded(array: np.ndarray, sizes: Sequence[tuple[int, ...]], value: int) -> np.ndarray:
    """Give an array (H, W, ...) the largest height and width among `sizes`."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    margins = [(0, height - array.shape[0]), (0, width - array.shape[1])] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, margins, constant_values=value) if any(map(any, margins)) else array
