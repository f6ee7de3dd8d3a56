"""From raw arrays to tensors: augmentation in training, nothing but normalisation elsewhere."""

import os
import random
from collections.abc import Sequence

import numpy as np
import torch

# Set before the import: albumentations asks the network for its newest version otherwise.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2

from segdcn.data.colour import ColourJitter
from segdcn.data.geometry import View, draw_view
from segdcn.data.loading import IGNORE_INDEX

TRIES = 10  # as many as mmsegmentation takes
BLUR = (0.3, 2.0)  # standard deviation in pixels: from hardly visible to a picture out of focus

# (seed, epoch, index): the same key gives the same result in any process.
Key = tuple[int, int, int]
Tensors = tuple[torch.Tensor, torch.Tensor]


class TrainTransform:
    """The training augmentation.

    1. Draw a scale, uniformly from `scale_range`, an angle, uniformly up to `rotation` to either side, and
       whether to mirror.
    2. Draw the place of a crop. If in it one class has more than `cat_max_ratio` of the pixels that are not
       ignored, draw again, up to 10 places in all.
    3. Read the pixels that the crop shows, and scale them; labels by the nearest pixel.
    4. Change brightness, contrast and saturation by up to a factor of 1 +- `colour_jitter` and hue by up to a
       quarter of that (1 would be the full circle), in random order; blur.
    5. Lay them into the crop, turned and mirrored. What lies outside the image has the mean colour and the
       label 255.
    6. Normalise with `mean` and `std`.

    Args:
        crop_size: (height, width) in pixels.
        scale_range: (smallest, largest) factor.
        flip_prob: Probability of mirroring, in [0, 1].
        colour_jitter: In [0, 1]; 0 leaves colours alone.
        mean: Per channel (R, G, B), of values in [0, 1].
        std: Per channel, of values in [0, 1].
        cat_max_ratio: In (0, 1]; 1 takes the first place.
        rotation: Degrees, in [0, 180].
        blur: Probability, in [0, 1].
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        scale_range: tuple[float, float],
        flip_prob: float,
        colour_jitter: float,
        mean: Sequence[float],
        std: Sequence[float],
        cat_max_ratio: float = 1.0,
        rotation: float = 0.0,
        blur: float = 0.0,
    ) -> None:
        self.crop_size, self.scale_range = crop_size, scale_range
        self.flip_prob, self.rotation, self.cat_max_ratio = flip_prob, rotation, cat_max_ratio
        self.fill = tuple(255 * channel for channel in mean)
        self.normalise = Normalisation(mean, std)
        steps: list[A.BasicTransform] = []
        if colour_jitter > 0:
            steps.append(ColourJitter(colour_jitter))
        if blur > 0:
            steps.append(A.GaussianBlur(sigma_limit=BLUR, p=blur))
        self.photometric = A.Compose(steps) if steps else None

    def __call__(self, image: np.ndarray, labels: np.ndarray, key: Key) -> Tensors:
        """Transform one sample, every random choice following from `key`.

        Args:
            image: (H, W, 3) uint8 RGB; may be mapped from a file.
            labels: (H, W) uint8, likewise.
            key: (seed, epoch, index).

        Returns:
            The image (3, h, w) float32, normalised, and the labels (h, w) int64.
        """
        words = [int(word) for word in np.random.SeedSequence(key).generate_state(3, np.uint64)]
        view, seen = self._draw(np.random.default_rng(words[0]), labels)
        pixels = view.cut(image, cv2.INTER_LINEAR)
        if self.photometric is not None:
            # Not set_random_seed: that starts *each* step from the same seed.
            self.photometric.set_random_state(np.random.default_rng(words[1]), random.Random(words[2]))
            pixels = self.photometric(image=pixels)["image"]
        pixels = view.place(pixels, self.fill, cv2.INTER_LINEAR)
        return self.normalise(pixels), torch.from_numpy(seen.astype(np.int64))

    def _draw(self, rng: np.random.Generator, labels: np.ndarray) -> tuple[View, np.ndarray]:
        """Draw a view, and return it with the labels that it shows."""
        scale = rng.uniform(*self.scale_range)
        angle = rng.uniform(-self.rotation, self.rotation)
        flip = bool(rng.random() < self.flip_prob)
        for _ in range(TRIES):
            view = draw_view(rng, labels.shape[:2], self.crop_size, scale, angle, flip)
            # NEAREST_EXACT: plain NEAREST rounds down and so moves labels by up to half a pixel.
            seen = view.place(view.cut(labels, cv2.INTER_NEAREST_EXACT), (IGNORE_INDEX,), cv2.INTER_NEAREST)
            if self.cat_max_ratio >= 1 or _largest_share(seen) <= self.cat_max_ratio:
                break
        return view, seen


class EvalTransform:
    """The transform of validation and test: normalisation only, at the original size."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.normalise = Normalisation(mean, std)

    def __call__(self, image: np.ndarray, labels: np.ndarray, key: Key) -> Tensors:
        """Return the image (3, H, W) float32, normalised, and the labels (H, W) int64."""
        return self.normalise(image), torch.from_numpy(labels.astype(np.int64))


class Normalisation:
    """(value / 255 - mean) / std, looked up: there are 256 values to a channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        values = np.arange(256) / 255
        self.tables = [((values - m) / s).astype(np.float32) for m, s in zip(mean, std, strict=True)]

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Turn (H, W, 3) uint8 into (3, H, W) float32."""
        chw = np.empty((3, *image.shape[:2]), np.float32)
        for channel, table in enumerate(self.tables):
            cv2.LUT(cv2.extractChannel(image, channel), table, dst=chw[channel])
        return torch.from_numpy(chw)


def _largest_share(labels: np.ndarray) -> float:
    """Return the share of the most frequent class in the pixels that are not ignored; 1 if all are."""
    counts = cv2.calcHist([labels], [0], None, [IGNORE_INDEX], [0, IGNORE_INDEX])
    total = counts.sum(dtype=np.float64)
    return float(counts.max() / total) if total else 1.0
