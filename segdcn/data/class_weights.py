"""How much a pixel of each class should count, from how rare the class is."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from segdcn.data.base import Sample, SegmentationData

# A class of a few hundred pixels would otherwise outweigh all others together.
SMALLEST, LARGEST = 0.1, 10.0


def balanced_weights(data: SegmentationData, progress: Callable[[], None] = lambda: None) -> list[float]:
    """Read every training label map once, at the size it is trained at, and balance the classes.

    Args:
        data: The data set; `train_limit` counts.
        progress: Called after each label map.

    Returns:
        N weights, from `median_frequency`.

    Raises:
        MissingFileError: A file is gone.
        InvalidDataError: A file is damaged, or a label is no class.
    """
    samples = data.samples(data.train_split)[: data.train_limit]
    pixels, beside = np.zeros(data.num_classes, np.int64), np.zeros(data.num_classes, np.int64)

    def count(sample: Sample) -> np.ndarray:
        labels = data.read_labels(sample)
        data.check_labels(labels, sample.labels)
        return np.bincount(data.resized(labels.astype(np.uint8)).ravel(), minlength=256)[: data.num_classes]

    # Threads: decoding a PNG leaves Python's lock alone.
    with ThreadPoolExecutor(max(1, data.num_workers)) as pool:
        for counts in pool.map(count, samples):
            pixels += counts
            beside += counts.sum() * (counts > 0)
            progress()
    return median_frequency(pixels.tolist(), beside.tolist())


def median_frequency(pixels: Sequence[int], beside: Sequence[int]) -> list[float]:
    """Balance classes by their frequency.

    frequency = pixels of the class / pixels with any class, in the label maps that hold the class
    weight    = median of all frequencies / frequency, at least 0.1 and at most 10

    A class that occurs nowhere gets 1 and has no part in the median.

    Args:
        pixels: Pixels of each class.
        beside: Pixels with any class in the label maps that hold each class.

    Returns:
        N weights, rounded to four digits: they are settings that one reads.

    Source: Eigen & Fergus 2015 (arXiv 1411.4734), section 6.3.2; the limits are ours.
    """
    frequency = [own / all_ if own else None for own, all_ in zip(pixels, beside, strict=True)]
    occurring = [value for value in frequency if value is not None]
    if not occurring:
        return [1.0] * len(frequency)
    median = float(np.median(occurring))
    weights = [1.0 if value is None else min(LARGEST, max(SMALLEST, median / value)) for value in frequency]
    return [float(f"{weight:.4g}") for weight in weights]
