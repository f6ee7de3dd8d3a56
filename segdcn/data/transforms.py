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

from segdcn.data.loading import IGNORE_INDEX


def train_transform(
    crop_size: tuple[int, int],
    scale_range: tuple[float, float],
    flip_prob: float,
    colour_jitter: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> A.Compose:
    """Build the training augmentation.

    1. Scale by a factor drawn uniformly from `scale_range`; labels by the nearest pixel.
    2. Cut out `crop_size` at a random place. What lies outside the image is filled with
       the mean colour and the label 255.
    3. Mirror with probability `flip_prob`.
    4. Change brightness, contrast and saturation by up to a factor of 1 +- `colour_jitter`
       and hue by up to a quarter of that (1 would be the full circle), in random order.
    5. Normalise with `mean` and `std`.

    Args:
        crop_size: (height, width) in pixels.
        scale_range: (smallest, largest) factor.
        flip_prob: In [0, 1].
        colour_jitter: In [0, 1]; 0 leaves colours alone.
        mean: Per channel (R, G, B), of values in [0, 1].
        std: Per channel, of values in [0, 1].
    """
    smallest, largest = scale_range
    steps: list[A.BasicTransform] = []
    if (smallest, largest) != (1, 1):
        # NEAREST_EXACT: plain NEAREST rounds down and so moves labels by up to half a pixel.
        steps.append(
            A.RandomScale(
                scale_limit=(smallest - 1, largest - 1),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
                p=1,
            )
        )
    steps.append(
        A.RandomCrop(
            *crop_size,
            pad_if_needed=True,
            pad_position="random",
            fill=tuple(255 * channel for channel in mean),
            fill_mask=IGNORE_INDEX,  # `mask_value` is silently ignored and would pad with class 0
            p=1,
        )
    )
    if flip_prob > 0:
        steps.append(A.HorizontalFlip(p=flip_prob))
    if colour_jitter > 0:
        factors = (1 - colour_jitter, 1 + colour_jitter)
        hue = (-colour_jitter / 4, colour_jitter / 4)
        steps.append(A.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=hue, p=1))
    return A.Compose([*steps, A.Normalize(mean=tuple(mean), std=tuple(std))])


def eval_transform(mean: Sequence[float], std: Sequence[float]) -> A.Compose:
    """Build the transform of validation and test: normalisation only, at the original size."""
    return A.Compose([A.Normalize(mean=tuple(mean), std=tuple(std))])


def apply(
    transform: A.Compose, image: np.ndarray, labels: np.ndarray, key: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Transform one sample, every random choice following from `key`.

    Args:
        transform: From `train_transform` or `eval_transform`.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8.
        key: (seed, epoch, index); the same key gives the same result in any process.

    Returns:
        The image (3, h, w) float32, normalised, and the labels (h, w) int64.
    """
    words = np.random.SeedSequence(key).generate_state(2, np.uint64)
    # Not set_random_seed: that starts *each* step from the same seed, and crop, scale and
    # flip would then move together. One generator, passed on from step to step, does not.
    transform.set_random_state(np.random.default_rng(int(words[0])), random.Random(int(words[1])))
    result = transform(image=image, mask=labels)
    chw = np.ascontiguousarray(result["image"].transpose(2, 0, 1))
    return torch.from_numpy(chw), torch.from_numpy(result["mask"].astype(np.int64))
