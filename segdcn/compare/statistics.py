"""Means over seeds, and differences between runs of the same seed."""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit


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

    @property
    def interval(self) -> tuple[float, float] | None:
        """Ends of the 95 % confidence interval of the mean, by Student's t; None for fewer than two values."""
        if (error := self.standard_error) is None:
            return None
        reach = float(stdtrit(len(self.values) - 1, 0.975)) * error
        return self.mean - reach, self.mean + reach


def spread(values: Mapping[int, float | None]) -> Spread | None:
    """Sum up the values of a variant by seed; what is not defined is left out. None if nothing is left."""
    kept = {seed: value for seed, value in values.items() if value is not None and not math.isnan(value)}
    if not kept:
        return None
    listed: Sequence[float] = list(kept.values())
    return Spread(kept, fmean(listed), stdev(listed) if len(listed) > 1 else None)


def paired(
    values: Mapping[int, float | None],
    first: Mapping[int, float | None],
    compare: Callable[[float, float], float] = operator.sub,
) -> Spread | None:
    """Compare each value with the first variant's of the same seed, as their difference if nothing else is said.

    Runs of one seed share start, order and augmentation, so their difference varies less than they do.
    """
    pairs = {seed: (value, first.get(seed)) for seed, value in values.items()}
    return spread({seed: compare(a, b) for seed, (a, b) in pairs.items() if a is not None and b is not None})
