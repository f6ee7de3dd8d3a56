"""What a small, a medium and a large object is, the same wherever objects are told apart by size."""

from typing import Any

import numpy as np

NAMES = ("small", "medium", "large")
LIMITS = (32**2, 96**2)  # pixels: COCO's; an object of as many pixels as a limit has the larger size


def size_of(areas: Any, limits: tuple[int, int] = LIMITS) -> Any:
    """Return the index into `NAMES` of a number of pixels, or of many."""
    return np.digitize(areas, limits)
