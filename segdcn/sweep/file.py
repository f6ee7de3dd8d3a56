"""W&B's sweep file: what it says, and what of it a local sweep can do.

`wandb sweep` sends the file to a server, which has the last word about it. A local sweep has to
understand every line itself: what it does not understand it refuses by name.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.refusals import near
from segdcn.sweep.command import check_command

METHODS = ("grid", "random", "bayes")
KEYS = {
    *("name", "description", "project", "entity", "program", "command"),
    *("method", "metric", "parameters", "early_terminate", "run_cap"),
}
DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform", "log_uniform_values")
# W&B's others, which Optuna has no counterpart of.
ONLY_ON_WANDB = {
    *("categorical_w_probabilities", "inv_log_uniform", "inv_log_uniform_values", "q_log_uniform"),
    *("q_log_uniform_values", "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta"),
}


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


@dataclass(frozen=True)
class Hyperband:
    """When a trial is stopped early: at validation `first`, `first * eta`, `first * eta**2`, ...

    Attributes:
        first: Validations before the first judgement.
        eta: Of those that came as far, the best 1/eta go on.
    """

    first: int
    eta: int


@dataclass(frozen=True)
class SweepFile:
    """A sweep file that a local sweep can run.

    Attributes:
        config: The file as it is.
        name: `name` in the file, or the file's own.
        method: grid, random or bayes.
        metric: Column of metrics.csv that is judged.
        maximize: Whether more of it is better.
        parameters: What is varied, in the file's order.
        program: What `${program}` stands for.
        command: Command with its macros.
        early: Early termination, or None.
        run_cap: Number of trials, or None.
    """

    config: dict[str, Any]
    name: str
    method: str
    metric: str
    maximize: bool
    parameters: tuple[Parameter, ...]
    program: str
    command: tuple[str, ...]
    early: Hyperband | None
    run_cap: int | None

    def grid(self) -> Iterator[dict[str, Any]]:
        """All combinations, the last parameter varying fastest."""
        names = [parameter.name for parameter in self.parameters]
        for values in itertools.product(*(parameter.points() for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Nest values by name as W&B hands them to a command."""
        nested: dict[str, Any] = {}
        for parameter in self.parameters:
            place = nested
            for key in parameter.keys[:-1]:
                place = place.setdefault(key, {})
            place[parameter.keys[-1]] = values[parameter.name]
        return nested


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a sweep file as far as W&B needs it: a mapping with a method and parameters."""
    if not path.is_file():
        raise MissingFileError(f"there is no sweep file {path}; configs/sweep has examples")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidDataError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("parameters"), dict) or "method" not in config:
        raise InvalidDataError(f"{path} is no sweep file: it needs method and parameters, as W&B documents them")
    return config


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file for a local sweep.

    Raises:
        UserValueError: Something in it is wrong, or is nothing that a local sweep can do.
    """
    config = read_yaml(path)
    for key in config:
        if key not in KEYS:
            raise UserValueError(f"{path}: a local sweep does not know {key!r}{near(str(key), KEYS)}")
    if config["method"] not in METHODS:
        raise UserValueError(f"{path}: method is {config['method']!r}; expected one of {', '.join(METHODS)}")
    parameters = tuple(_parameters(config["parameters"]))
    if twice := _first_double([parameter.name for parameter in parameters]):
        raise UserValueError(f"parameters.{twice} is there twice, flat and nested; keep one")
    metric, maximize = _metric(config.get("metric"))
    command = check_command(config.get("command"), config.get("program"), _holds_null(parameters))
    sweep = SweepFile(
        config=config,
        name=re.sub(r"[^A-Za-z0-9._+=-]+", "-", str(config.get("name") or path.stem)).strip("-.") or "sweep",
        method=config["method"],
        metric=metric,
        maximize=maximize,
        parameters=parameters,
        program=config["program"],
        command=command,
        early=_early(config.get("early_terminate")),
        run_cap=_whole("run_cap", config["run_cap"], 1) if config.get("run_cap") is not None else None,
    )
    if sweep.method == "grid":
        next(sweep.grid())  # refuses what has no end
    return sweep


def _first_double(names: list[str]) -> str | None:
    return next((name for index, name in enumerate(names) if name in names[:index]), None)


def _holds_null(parameters: tuple[Parameter, ...]) -> bool:
    return any(None in parameter.space.values for parameter in parameters if isinstance(parameter.space, Choice))


def _metric(metric: Any) -> tuple[str, bool]:
    """Read which number is judged, and whether more of it is better."""
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserValueError("metric needs a name, such as val/mIoU, and a goal")
    if unknown := sorted(metric.keys() - {"name", "goal"}):
        raise UserValueError(f"a local sweep does not know metric.{unknown[0]}; it takes name and goal")
    goal = metric.get("goal", "minimize")  # W&B's default
    if goal not in ("maximize", "minimize"):
        raise UserValueError(f"metric.goal is {goal!r}; expected maximize or minimize")
    return metric["name"], goal == "maximize"


# Parameters


def _parameters(specs: dict[Any, Any], above: tuple[str, ...] = ()) -> Iterator[Parameter]:
    for key, spec in specs.items():
        keys = (*above, str(key))
        name = ".".join(keys)
        if not isinstance(spec, dict):
            raise UserValueError(f"parameters.{name} is {spec!r}; write value: {spec!r}, or values: [...]")
        if isinstance(spec.get("parameters"), dict):
            yield from _parameters(spec["parameters"], keys)
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
    return value


# Early termination


def _early(spec: Any) -> Hyperband | None:
    """Read early_terminate.

    W&B's hyperband is one bracket of successive halving: trials are judged at `min_iter * eta**k`
    validations, or at `max_iter / eta**k` for k = s, ..., 1. `strict` says how promptly W&B looks;
    here every judgement is made when it is due.
    """
    if spec is None:
        return None
    if not isinstance(spec, dict) or spec.get("type") != "hyperband":
        raise UserValueError(f"early_terminate is {spec!r}; a local sweep knows type: hyperband")
    if unknown := sorted(spec.keys() - {"type", "min_iter", "max_iter", "s", "eta", "strict"}):
        raise UserValueError(f"a local sweep does not know early_terminate.{unknown[0]}")
    eta = _whole("early_terminate.eta", spec.get("eta", 3), 2)
    if ("min_iter" in spec) == ("max_iter" in spec):
        raise UserValueError("early_terminate needs either min_iter, or max_iter and s")
    if "min_iter" in spec:
        return Hyperband(_whole("early_terminate.min_iter", spec["min_iter"], 1), eta)
    brackets = _whole("early_terminate.s", spec.get("s"), 1)
    return Hyperband(max(1, _whole("early_terminate.max_iter", spec["max_iter"], 1) // eta**brackets), eta)


def _whole(key: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserValueError(f"{key} is {value!r}; expected a whole number from {least} on")
    return value
