"""From a picture to labels, whatever the network was loaded from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.inference import Inference

Picture = np.ndarray | Image.Image | str | Path

# Normalised images (B, 3, H, W), of sizes that the description allows, to logits (B, N, H, W).
Run = Callable[[Tensor], Tensor]


class Predictor:
    """Labels pictures; `segdcn.load` makes it.

        labels = segdcn.load("best.ckpt").predict("street.jpg")                # (H, W) class ids
        labels = segdcn.load("street.onnx").predict(array, window=(512, 512))  # in overlapping windows

    A picture is a path, a PIL image or an array (H, W, 3) uint8 RGB, of any size. The network sees all
    of it at once, padded with the mean colour, unless told otherwise by `how`: `window`, `overlap`,
    `scales` and `flip` of `segdcn.inference.Inference`.

    Attributes:
        description: Class names, palette, normalisation and sizes.
        network: The network of a checkpoint or of safetensors; None where another runtime holds it.
    """

    def __init__(self, run: Run, description: Description, network: nn.Module | None = None) -> None:
        self._run, self.description, self.network = run, description, network

    @property
    def class_names(self) -> list[str]:
        """N names, in the order of the labels."""
        return self.description.class_names

    def predict(self, image: Picture, **how: Any) -> np.ndarray:
        """Label every pixel: (H, W), uint8 where that holds all classes.

        Raises:
            UserValueError: The image is no picture of three channels, or too small for this network.
            MissingFileError: There is no such file.
            InvalidDataError: The file is no picture.
        """
        labels = self.logits(image, **how)[0].argmax(0).cpu().numpy()
        return labels.astype(np.min_scalar_type(len(self.class_names) - 1))

    def probabilities(self, image: Picture, **how: Any) -> np.ndarray:
        """Give the softmax of the logits: (N, H, W) float32.

        Raises:
            UserError: As `predict`.
        """
        return self.logits(image, **how)[0].softmax(0).cpu().numpy()

    @torch.inference_mode()
    def logits(self, image: Picture, **how: Any) -> Tensor:
        """Compute logits (1, N, H, W) float32.

        Raises:
            UserError: As `predict`.
        """
        inference = Inference(size_divisor=self.description.size_divisor, **how)
        return inference(self.run, self.normalised(image)).float()

    def normalised(self, image: Picture) -> Tensor:
        """Turn a picture into what the network was trained on: (image / 255 - mean) / std, (1, 3, H, W) float32.

        Raises:
            UserError: As `predict`, but for the size.
        """
        pixels = torch.from_numpy(_as_array(image))  # (H, W, 3) uint8
        mean, std = torch.tensor(self.description.mean), torch.tensor(self.description.std)
        return ((pixels - 255 * mean) / (255 * std)).permute(2, 0, 1)[None]

    def run(self, image: Tensor) -> Tensor:
        """Run the network in its runtime: normalised images (B, 3, H, W) to logits (B, N, H, W).

        Raises:
            UserValueError: The images are too small for a file that was made for a range of sizes.
        """
        height, width = image.shape[2:]
        minimum, divisor = self.description.size_minimum, self.description.size_divisor
        if min(height, width) < minimum:
            raise UserValueError(
                f"the image is padded to {height}x{width} (height x width), but this file takes {minimum} pixels or "
                f"more on each side, that is pictures of more than {minimum - divisor}; the checkpoint takes any"
            )
        return self._run(image)


def _as_array(image: Picture) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB, in memory that torch can share."""
    if isinstance(image, (str, Path)):
        image = _read(Path(image))
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    found: Any = image
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        is_array = isinstance(found, np.ndarray)
        what = f"an array {found.shape} of {found.dtype}" if is_array else f"a {type(found).__name__}"
        raise UserValueError(f"image is {what}, but must be (H, W, 3) uint8 RGB, a PIL image or the path of a picture")
    if min(found.shape[:2]) < 1:
        raise UserValueError(f"image has shape {found.shape}; it must have at least one pixel")
    return np.array(found)


def _read(path: Path) -> Image.Image:
    if not path.is_file():
        raise MissingFileError(f"there is no picture {path}")
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidDataError(f"{path} cannot be read as a picture") from error
