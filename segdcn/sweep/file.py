"""W&B's sweep file: what it says, and what of it a local sweep can do.

`wandb sweep` sends the file to a server, which has the last word about it. A local sweep has to
understand every line itself: what it does not understand it refuses by name.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdcn import yaml_files
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.refusals import near
from segdcn.sweep.command import check_command
from segdcn.sweep.parameters import Choice, Parameter, read_parameters

METHODS = ("grid", "random", "bayes")
KEYS = {
    *("name", "description", "project", "entity", "program", "command"),
    *("method", "metric", "parameters", "early_terminate", "run_cap"),
}


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
    config = yaml_files.read_yaml(path)
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
    parameters = tuple(read_parameters(config["parameters"]))
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
