"""From a picture to labels, whatever the network was loaded from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segdcn.data.files import check_file, read_picture, rgb
from segdcn.data.transforms import Normalisation
from segdcn.description import Description
from segdcn.errors import UserValueError
from segdcn.inference import Inference

Picture = np.ndarray | Image.Image | str | Path

# Normalised images (B, 3, H, W), of sizes that the description allows, to logits (B, N, H, W).
Run = Callable[[Tensor], Tensor]


class Predictor:
    """Labels pictures; `segdcn.load` makes it.

        labels = segdcn.load("best.ckpt").predict("street.jpg")                # (H, W) class ids
        labels = segdcn.load("street.onnx").predict(array, window=(512, 512))  # in overlapping windows

    A picture is a path, a PIL image or an array (H, W, 3) uint8 RGB, of any size. Files and PIL images are
    turned upright as their EXIF data say, and so are the labels. The network sees all of it at once, padded
    with the mean colour, unless told otherwise by `how`: `window`, `overlap`, `scales` and `flip` of
    `segdcn.inference.Inference`.

    Attributes:
        description: Class names, palette, normalisation and sizes.
        network: The network of a checkpoint or of safetensors; None where another runtime holds it.
    """

    def __init__(self, run: Run, description: Description, network: nn.Module | None = None) -> None:
        self._run, self.description, self.network = run, description, network
        self._normalise = Normalisation(description.mean, description.std)

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
        labels = self.logits(image, **how)[0].max(0).indices.cpu().numpy()
        return labels.astype(self.label_dtype)

    @property
    def label_dtype(self) -> np.dtype:
        """The smallest unsigned integers that hold all classes."""
        return np.min_scalar_type(len(self.class_names) - 1)

    def probabilities(self, image: Picture, **how: Any) -> np.ndarray:
        """Give the softmax of the logits: (N, H, W) float32.

        Raises:
            UserError: As `predict`.
        """
        return self.logits(image, **how)[0].softmax(0).cpu().numpy()

    def logits(self, image: Picture, **how: Any) -> Tensor:
        """Compute logits (1, N, H, W) float32.

        Raises:
            UserError: As `predict`.
        """
        return self.apply(Inference(size_divisor=self.description.size_divisor, **how), [image])

    @torch.inference_mode()
    def apply(self, inference: Inference, images: Sequence[Picture]) -> Tensor:
        """Compute logits (B, N, H, W) float32 of pictures of one size, at once.

        Raises:
            UserError: As `predict`.
        """
        batch = torch.cat([self.normalised(image) for image in images])  # (B, 3, H, W)
        if self.network is not None:
            batch = batch.to(next(self.network.parameters()).device)
        return inference(self.run, batch).float()

    def normalised(self, image: Picture) -> Tensor:
        """Turn a picture into what the network was trained on: (image / 255 - mean) / std, (1, 3, H, W) float32.

        Raises:
            UserError: As `predict`, but for the size.
        """
        return self._normalise(_as_array(image))[None]

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
    """Return (H, W, 3) uint8 RGB."""
    if isinstance(image, (str, Path)):
        check_file(Path(image), f"there is no picture {image}")
        return read_picture(Path(image), upright=True)
    found: Any = rgb(image, "the image", upright=True) if isinstance(image, Image.Image) else image
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        is_array = isinstance(found, np.ndarray)
        what = f"an array {found.shape} of {found.dtype}" if is_array else f"a {type(found).__name__}"
        raise UserValueError(f"image is {what}, but must be (H, W, 3) uint8 RGB, a PIL image or the path of a picture")
    if min(found.shape[:2]) < 1:
        raise UserValueError(f"image has shape {found.shape}; it must have at least one pixel")
    return np.ascontiguousarray(found)
