"""Means over seeds, and differences between runs of the same seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        values: By seed.
        mean: Of the values.
        std: Their standard deviation, of a sample (n - 1); None for fewer than two.
    """

    values: Mapping[int, float]
    mean: float
    std: float | None

    @property
    def standard_error(self) -> float | None:
        """How far the mean is off, as a standard deviation; None for fewer than two values."""
        return None if self.std is None else self.std / math.sqrt(len(self.values))


def spread(values: Mapping[int, float | None]) -> Spread | None:
    """Sum up the values of a variant by seed; what is not defined is left out. None if nothing is left."""
    kept = {seed: value for seed, value in values.items() if value is not None and not math.isnan(value)}
    if not kept:
        return None
    listed: Sequence[float] = list(kept.values())
    return Spread(kept, fmean(listed), stdev(listed) if len(listed) > 1 else None)


def paired(values: Mapping[int, float | None], first: Mapping[int, float | None]) -> Spread | None:
    """Subtract the first variant's value of the same seed from each value.

    Runs of one seed share start, order and augmentation, so their difference varies less than they do.
    """
    pairs = {seed: (value, first.get(seed)) for seed, value in values.items()}
    return spread({seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None})
