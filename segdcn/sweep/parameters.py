"""What a sweep varies: the parameters of a sweep file and the values they can take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segdcn.errors import UserValueError
from segdcn.refusals import near

DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform", "log_uniform_values")
# W&B's others, which Optuna has no counterpart of.
ONLY_ON_WANDB = {
    *("categorical_w_probabilities", "inv_log_uniform", "inv_log_uniform_values", "q_log_uniform"),
    *("q_log_uniform_values", "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"),
}

LARGEST = 2**53  # beyond it float64, in which sweeps are drawn, has gaps between whole numbers


@dataclass(frozen=True)
class Choice:
    """One of some values, of any type; a constant is a choice of one."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        step: Distance of the values; None is continuous.
        log: Draw evenly in the logarithm.
        whole: Integers.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Parameter:
    """What is varied.

    Attributes:
        keys: Where the value goes in the arguments: `("model.lr",)`, or `("model", "lr")` for a
            parameter written as nested `parameters`.
        space: The values it can take.
    """

    keys: tuple[str, ...]
    space: Choice | Range

    @property
    def name(self) -> str:
        """The dotted name, as on the command line."""
        return ".".join(self.keys)

    @property
    def is_constant(self) -> bool:
        """Tell whether there is nothing to vary."""
        return isinstance(self.space, Choice) and len(self.space.values) == 1

    def points(self) -> tuple[Any, ...]:
        """All values in order, for a grid."""
        if isinstance(self.space, Choice):
            return self.space.values
        if self.space.step is None:
            raise UserValueError(f"parameters.{self.name}: a grid needs values, or a step (q_uniform, int_uniform)")
        count = round((self.space.high - self.space.low) / self.space.step) + 1
        points = (self.space.low + index * self.space.step for index in range(count))
        return tuple(int(point) if self.space.whole else point for point in points)


def read_parameters(specs: dict[Any, Any], above: tuple[str, ...] = ()) -> Iterator[Parameter]:
    """Read `parameters` of a sweep file, those that are nested under others too."""
    for key, spec in specs.items():
        keys = (*above, str(key))
        name = ".".join(keys)
        if not isinstance(spec, dict):
            raise UserValueError(f"parameters.{name} is {spec!r}; write value: {spec!r}, or values: [...]")
        if isinstance(spec.get("parameters"), dict):
            yield from read_parameters(spec["parameters"], keys)
        else:
            yield Parameter(keys, _space(name, spec))


def _space(name: str, spec: dict[str, Any]) -> Choice | Range:
    """Read one parameter, by its distribution or what W&B infers where none is named."""
    kind = spec.get("distribution") or _inferred(name, spec)
    if kind in ONLY_ON_WANDB:
        raise UserValueError(
            f"parameters.{name}: a local sweep has no {kind}, which W&B has; it has {', '.join(DISTRIBUTIONS)}"
        )
    if kind not in DISTRIBUTIONS:
        raise UserValueError(f"parameters.{name}: there is no distribution {kind!r}{near(str(kind), DISTRIBUTIONS)}")
    takes = {"constant": {"value"}, "categorical": {"values"}, "q_uniform": {"min", "max", "q"}}
    if unknown := sorted(spec.keys() - {"distribution"} - takes.get(kind, {"min", "max"})):
        raise UserValueError(f"parameters.{name}: {kind} does not take {unknown[0]!r}")
    if kind == "constant":
        return Choice((_of(name, spec, "value"),))
    if kind == "categorical":
        values = _of(name, spec, "values")
        if not isinstance(values, list) or not values:
            raise UserValueError(f"parameters.{name}: values is {values!r}; expected a list with something in it")
        return Choice(tuple(values))

    low, high = _number(name, "min", _of(name, spec, "min")), _number(name, "max", _of(name, spec, "max"))
    if not low < high:
        raise UserValueError(f"parameters.{name}: min is {low} and max {high}; expected min below max")
    if kind == "int_uniform":
        if low != int(low) or high != int(high):
            raise UserValueError(f"parameters.{name}: int_uniform needs whole numbers, got {low} to {high}")
        return Range(low, high, step=1, whole=True)
    if kind == "q_uniform":
        step = _number(name, "q", spec.get("q", 1))
        if step <= 0 or any(not math.isclose(bound / step, round(bound / step), abs_tol=1e-9) for bound in (low, high)):
            raise UserValueError(f"parameters.{name}: a local q_uniform needs a min and max that are multiples of q")
        return Range(low, high, step=step, whole=all(number == int(number) for number in (low, high, step)))
    if kind == "log_uniform":  # the bounds are exponents
        if high > 700:
            raise UserValueError(f"parameters.{name}: max is {high}; log_uniform takes exponents, of at most 700")
        return Range(math.exp(low), math.exp(high), log=True)
    if kind == "log_uniform_values":
        if low <= 0:
            raise UserValueError(f"parameters.{name}: min is {low}; log_uniform_values needs one above 0")
        return Range(low, high, log=True)
    return Range(low, high)


def _inferred(name: str, spec: dict[str, Any]) -> str:
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if "min" in spec and "max" in spec:
        both_whole = isinstance(spec["min"], int) and isinstance(spec["max"], int)
        return "int_uniform" if both_whole else "uniform"
    if "mu" in spec or "sigma" in spec:
        return "normal"
    raise UserValueError(f"parameters.{name} needs value, values, or min and max")


def _of(name: str, spec: dict[str, Any], key: str) -> Any:
    if key not in spec:
        raise UserValueError(f"parameters.{name}: {key} is missing")
    return spec[key]


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        # YAML reads 1e-4 as text; it wants the dot.
        raise UserValueError(f"parameters.{name}: {key} is {value!r}; expected a number, written like 1.0e-4")
    if not abs(value) <= LARGEST:
        raise UserValueError(f"parameters.{name}: {key} is {value!r}; expected a number of at most {LARGEST:g} in size")
    return value
