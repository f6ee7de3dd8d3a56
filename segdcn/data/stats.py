"""Numbers about a data set: colours and classes of a split, and weights made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.class_weights import median_frequency
from segdcn.data.loading import IGNORE_INDEX
from segdcn.data.passes import each

FORMULA = (
    "median frequency balancing (Eigen and Fergus 2015): weight of c = median(f) / f(c), where f(c) = "
    "pixels of c / pixels with a class in the images that hold c; at least 0.1 and at most 10; a class that never "
    "occurs gets 1"
)


@dataclass(frozen=True)
class Stats:
    """What a pass over the samples of a split counted.

    Attributes:
        num_images: Images read.
        mean: Of each channel (R, G, B) over all pixels, of values in 0..1.
        std: Likewise; of the population, not of a sample.
        pixels: Pixels of each class (N,).
        ignored: Pixels to ignore.
        images: Images that hold each class (N,).
        frequencies: f(c) of `FORMULA` (N,); 0 for a class that never occurs.
    """

    num_images: int
    mean: np.ndarray
    std: np.ndarray
    pixels: np.ndarray
    ignored: int
    images: np.ndarray
    frequencies: np.ndarray

    @property
    def weights(self) -> list[float]:
        """Class weights (N,) by `FORMULA`: those that `model.class_weights: balanced` gives."""
        return median_frequency(self.frequencies.tolist(), (self.frequencies > 0).tolist())


def measure(data: SegmentationData, split: str, advance: Callable[[], None] = lambda: None) -> Stats:
    """Read a split once, in `data.num_workers` processes, and count.

    Everything is a sum of whole numbers, so neither the order nor the number of processes changes it.

    Args:
        data: The data set.
        split: Its split.
        advance: Called after each image.

    Raises:
        MissingFileError: A file is missing.
        InvalidDataError: A file is damaged, or its labels are no classes.
    """
    samples = data.samples(split)
    values = np.zeros((3, 256), np.int64)  # how often each value occurs in each channel
    pixels = np.zeros(256, np.int64)
    images, around = np.zeros((2, data.num_classes), np.int64)
    for colours, counts in each(partial(_count, data), samples, data.num_workers):
        values += colours
        pixels += counts
        present = counts[: data.num_classes] > 0
        images += present
        around += present * counts[: data.num_classes].sum()
        advance()
    level = np.arange(256) / 255
    mean = values @ level / values.sum(1)
    return Stats(
        num_images=len(samples),
        mean=mean,
        std=np.sqrt((values * (level - mean[:, None]) ** 2).sum(1) / values.sum(1)),
        pixels=pixels[: data.num_classes],
        ignored=int(pixels[IGNORE_INDEX]),
        images=images,
        frequencies=pixels[: data.num_classes] / np.maximum(around, 1),
    )


def _count(data: SegmentationData, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Count the values of each channel (3, 256) and the labels (256,) of one sample."""
    image, labels = data.decode(sample)
    colours = np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
    return colours, np.bincount(labels.ravel(), minlength=256)
