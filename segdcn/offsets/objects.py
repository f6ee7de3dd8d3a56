"""Objects in a label map: their class, size and centre."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Region:
    """One object, or one connected piece of background.

    Attributes:
        label: Its class.
        area: Its size in pixels.
        y: Row of its centre: of its pixel that is farthest from its border, and so lies in it also where
            it is bent or has a hole.
        x: Column of that pixel.
        background: Whether it is none of the objects.
    """

    label: int
    area: int
    y: float
    x: float
    background: bool


def regions(
    labels: np.ndarray,
    instances: np.ndarray | None = None,
    background: int | None = 0,
    ignore_index: int = 255,
    smallest: int = 16,
) -> list[Region]:
    """Find the objects of an image, and the pieces of background between them.

    With an instance map each instance is an object and all else is background. Without one, each
    connected piece (eight neighbours) of a class other than `background` is an object.

    Args:
        labels: Class indices (H, W).
        instances: 0 where there is no object, another number for each (H, W).
        background: The class that is no object; None if all classes are.
        ignore_index: Label that is no class.
        smallest: Pixels that a region must have at least; crumbs of a label map are no objects.
    """
    found: list[Region] = []
    rest = labels
    if instances is not None:
        counted = np.where(labels == ignore_index, 0, instances)
        for number in np.unique(counted[counted > 0]).tolist():
            mask = counted == number
            if int(mask.sum()) >= smallest:
                found.append(_region(int(np.bincount(labels[mask]).argmax()), mask, (0, 0), False))
        rest = np.where(instances > 0, ignore_index, labels)
    for label in np.unique(rest[rest != ignore_index]).tolist():
        _, pieces, stats, _ = cv2.connectedComponentsWithStats((rest == label).astype(np.uint8), connectivity=8)
        for number, (left, top, width, height, area) in enumerate(stats[1:].tolist(), start=1):
            if area >= smallest:
                mask = pieces[top : top + height, left : left + width] == number
                no_object = instances is not None or label == background
                found.append(_region(label, mask, (top, left), no_object))
    return found


def _region(label: int, mask: np.ndarray, corner: tuple[int, int], background: bool) -> Region:
    # A border of zeros, so that the image's edge counts as the region's border.
    distance = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return Region(label, int(mask.sum()), float(corner[0] + y), float(corner[1] + x), background)
