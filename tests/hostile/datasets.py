"""Data sets that are damaged, as tests/data/damage.py does it, read by `data check` and by `fit`."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

from attempt import Mutation
from damage import CASES, Case, fit_arguments, make


def damaged() -> Iterator[Mutation]:
    for case in CASES:
        if case.found:
            yield Mutation(f"check, {case.kind}: {case.name}", _check(case), listed=True)
        if case.stops_training:
            yield Mutation(f"fit, {case.kind}: {case.name}", _fit(case), starts=True)


def _check(case: Case):  # noqa: ANN202
    def spoil(folder: Path, rng: Random) -> list[str]:
        return ["data", "check", str(make(case, folder, rng.getrandbits(32)))]

    return spoil


def _fit(case: Case):  # noqa: ANN202
    def spoil(folder: Path, rng: Random) -> list[str]:
        return fit_arguments(make(case, folder, rng.getrandbits(32)), num_workers=0)

    return spoil


CATEGORIES = {"data sets": damaged}
