"""The tables of a comparison."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segdcn.compare.plan import Plan
from segdcn.compare.record import SIZES, Record
from segdcn.compare.statistics import Spread, paired, spread

Number = Callable[[Record], float | None]
NONE = "-"  # what was not measured, or is not defined


@dataclass(frozen=True)
class Table:
    """Rows of texts.

    Attributes:
        head: Names of the columns.
        rows: The first cell of each is its name.
        texts: How many columns, from the left, hold texts; the others hold numbers.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


class Scores:
    """Numbers of the finished runs, by variant and seed.

    Args:
        plan: What is compared.
        records: Of the runs that are finished.
    """

    def __init__(self, plan: Plan, records: Sequence[Record]) -> None:
        self.plan = plan
        self.records = records
        finished = {record.variant for record in records}
        self.variants = [variant.name for variant in plan.variants if variant.name in finished]

    def of(self, variant: str, number: Number) -> dict[int, float | None]:
        """Give a number of every run of a variant, by seed."""
        return {record.seed: number(record) for record in self.records if record.variant == variant}

    def spread(self, variant: str, number: Number) -> Spread | None:
        """Sum up a number over a variant's runs."""
        return spread(self.of(variant, number))

    def paired(
        self, variant: str, number: Number, compare: Callable[[float, float], float] = operator.sub
    ) -> Spread | None:
        """Sum up the differences from the first variant, or what else `compare` gives, seed by seed."""
        return paired(self.of(variant, number), self.of(self.plan.variants[0].name, number), compare)

    def classes(self) -> list[str]:
        """List the classes."""
        return list(self.records[0].results["IoU"])

    def layers(self, variant: str) -> list[str]:
        """List a variant's deformable layers."""
        return next(list(record.offsets) for record in self.records if record.variant == variant)


def miou(record: Record) -> float | None:
    """Mean IoU of a run."""
    return record.results["mIoU"]


def miou_table(scores: Scores) -> Table:
    """MIoU with its spread, and that of every seed."""
    rows = []
    for variant in scores.variants:
        values = scores.of(variant, miou)
        each = [_percent(values.get(seed)) for seed in scores.plan.seeds]
        rows.append([variant, mean_and_std(scores.spread(variant, miou)), *each])
    mean = "mean ± std" if len(scores.plan.seeds) > 1 else "mIoU"
    return Table(["variant", mean, *(f"seed {seed}" for seed in scores.plan.seeds)], rows)


def difference_table(scores: Scores) -> Table:
    """Differences in mIoU from the first variant, seed by seed."""
    rows = []
    for variant in scores.variants:
        if variant == scores.plan.variants[0].name:
            continue
        found = scores.paired(variant, miou)
        each = [_signed(found.values.get(seed) if found else None) for seed in scores.plan.seeds]
        rows.append([variant, _mean_and_error(found), _interval(found), *each])
    seeds = [f"seed {seed}" for seed in scores.plan.seeds]
    return Table([f"minus {scores.plan.variants[0].name}", "mean ± standard error", "95 % interval", *seeds], rows)


def _of_size(size: str) -> Number:
    return lambda record: record.results.get("objects", {}).get("by_size", {}).get(size, {}).get("mIoU")


def _of_class(name: str) -> Number:
    return lambda record: record.results["IoU"].get(name)


MEASURES: dict[str, Number] = {
    "boundary IoU": lambda record: record.results.get("boundary", {}).get("mIoU"),
    **{f"{size} objects": _of_size(size) for size in ("small", "medium", "large")},
    "pixels right": lambda record: record.results["pixel_accuracy"],
    "calibration error": lambda record: record.results.get("calibration", {}).get("error"),
}


def measure_table(scores: Scores) -> Table:
    """Boundary IoU, IoU by size of objects, and other measures of the whole set."""
    measures = {
        name: number for name, number in MEASURES.items() if any(scores.spread(v, number) for v in scores.variants)
    }
    rows = [
        [variant, *(mean_and_std(scores.spread(variant, number)) for number in measures.values())]
        for variant in scores.variants
    ]
    return Table(["variant", *measures], rows)


def class_table(scores: Scores) -> Table:
    """IoU of every class."""
    rows = [
        [name, *(mean_and_std(scores.spread(variant, _of_class(name))) for variant in scores.variants)]
        for name in scores.classes()
    ]
    return Table(["class", *scores.variants], rows)


def cost_table(scores: Scores) -> Table:
    """Seconds of a training step, memory and parameters."""
    first = scores.plan.variants[0].name
    rows = []
    for variant in scores.variants:
        ratio = scores.paired(variant, _cost("seconds_per_step"), operator.truediv)
        rows.append(
            [
                variant,
                _with_std(scores.spread(variant, _cost("seconds_per_step")), 1, ".3f"),
                NONE if variant == first else _with_std(ratio, 1, ".2f"),
                _with_std(scores.spread(variant, _cost("memory")), 2**20, ",.0f"),
                _with_std(scores.spread(variant, _cost("parameters")), 1e6, ".2f", std=False),
            ]
        )
    return Table(["variant", "s per step", f"of {first}", "peak memory, MiB", "parameters, M"], rows)


def _cost(key: str) -> Number:
    return lambda record: record.cost[key]


def offset_table(scores: Scores) -> Table:
    """Length of the offsets and effective dilation, by deformable layer."""
    sizes = [
        size for size in SIZES if any(_dilation(scores, variant, layer, size) for variant, layer in _layers(scores))
    ]
    rows = []
    for variant, layer in _layers(scores):
        mean, p95, outside = (scores.spread(variant, _health(layer, key)) for key in ("mean", "p95", "outside"))
        found = [_dilation(scores, variant, layer, size) for size in sizes]
        rows.append(
            [
                variant,
                layer.removeprefix("encoder."),
                *(NONE if length is None else f"{length.mean:.3f}" for length in (mean, p95)),
                NONE if outside is None else f"{outside.mean:.1%}",
                *(NONE if dilation is None else f"{dilation.mean:.2f}" for dilation in found),
            ]
        )
    dilations = [f"dilation, {size}" for size in sizes]
    return Table(["variant", "layer", "mean length", "95 % below", "outside", *dilations], rows, texts=2)


def _layers(scores: Scores) -> list[tuple[str, str]]:
    return [(variant, layer) for variant in scores.variants for layer in scores.layers(variant)]


def _health(layer: str, key: str) -> Number:
    return lambda record: record.offsets[layer][key]


def _dilation(scores: Scores, variant: str, layer: str, size: str) -> Spread | None:
    return scores.spread(variant, lambda record: record.offsets[layer]["effective_dilation"].get(size))


def run_table(records: Sequence[Record]) -> Table:
    """Every run: when, from what, and where it lies."""
    rows = [
        [
            f"{record.variant}, seed {record.seed}",
            record.facts["date"],
            str(record.facts["epochs"]),
            str(record.facts["steps"]),
            f"{record.facts['segdcn']} {record.facts['commit'] or ''}".strip(),
            record.facts["settings_sha256"][:12],
            record.facts["checkpoint"],
        ]
        for record in records
    ]
    head = ["run", "finished", "epochs", "steps", "segdcn", "settings", "weights"]
    return Table(head, rows, texts=len(head))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:+.2f}"


def mean_and_std(found: Spread | None) -> str:
    """Write shares in percent."""
    return _with_std(found, 0.01, ".2f")


def _with_std(found: Spread | None, unit: float, form: str, std: bool = True) -> str:
    if found is None:
        return NONE
    spread = "" if found.std is None or not std else f" ± {found.std / unit:{form}}"
    return f"{found.mean / unit:{form}}{spread}"


def _mean_and_error(found: Spread | None) -> str:
    if found is None:
        return NONE
    error = found.standard_error
    return _signed(found.mean) + ("" if error is None else f" ± {100 * error:.2f}")


def _interval(found: Spread | None) -> str:
    if found is None or found.interval is None:
        return NONE
    low, high = found.interval
    return f"{_signed(low)} to {_signed(high)}"
