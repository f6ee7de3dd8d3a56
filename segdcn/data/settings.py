"""What the settings that all data sets share have to be."""

import math
from typing import TYPE_CHECKING, get_args

from segdcn.data.cache import Kind
from segdcn.errors import UserValueError

if TYPE_CHECKING:
    from segdcn.data.base import SegmentationData

MOST_WORKERS = 512  # a slip of the keyboard must not fill the machine with processes


def check_settings(data: "SegmentationData") -> None:
    """Refuse settings that cannot work.

    Raises:
        UserValueError: One does not; the message names it, what it is and what it should be.
    """

    def refuse(name: str, expected: str) -> None:
        value = getattr(data, name)
        raise UserValueError(f"data.{name} is {list(value) if isinstance(value, tuple) else value}; {expected}")

    for name in ("batch_size", "eval_batch_size", "size_divisor"):
        if getattr(data, name) < 1:
            refuse(name, "expected 1 or more")
    for name in ("num_workers", "seed"):
        if getattr(data, name) < 0:
            refuse(name, "expected 0 or more")
    if data.num_workers > MOST_WORKERS:
        refuse("num_workers", f"expected at most {MOST_WORKERS}")
    for name in ("train_limit", "eval_limit"):
        if getattr(data, name) is not None and getattr(data, name) < 1:
            refuse(name, "expected 1 or more, or null for all")
    for name in ("flip_prob", "colour_jitter", "blur"):
        if not 0 <= getattr(data, name) <= 1:
            refuse(name, "expected a number from 0 to 1")
    if data.resize is not None and min(data.resize) < 1:
        refuse("resize", "expected [height, width] in pixels, or null")
    if min(data.crop_size) < 1 or any(side % data.size_divisor for side in data.crop_size):
        refuse(
            "crop_size",
            f"expected positive multiples of data.size_divisor = {data.size_divisor}, which the network takes",
        )
    smallest, largest = data.scale_range
    if not 0 < smallest <= largest < math.inf:
        refuse("scale_range", "expected [smallest, largest] with 0 < smallest <= largest")
    if not 0 < data.cat_max_ratio <= 1:
        refuse("cat_max_ratio", "expected a share above 0 and up to 1, which is off")
    if not 0 <= data.rotation <= 180:
        refuse("rotation", "expected degrees from 0 to 180")
    if data.cache not in (None, *get_args(Kind)):
        raise UserValueError(f"data.cache is {data.cache!r}; expected {', '.join(get_args(Kind))} or null")
    if data.cache == "ram" and data.cache_dir is not None:
        raise UserValueError("data.cache_dir is for data.cache disk; with ram the cache lies in shared memory")
    if not all(math.isfinite(value) for value in data.mean):
        refuse("mean", "expected numbers, of values in 0 to 1")
    if not all(0 < value < math.inf for value in data.std):
        refuse("std", "expected positive numbers")
