"""What is varied: from `--vary key=value,value` to variants and their flags."""

import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from segdcn.data.base import SegmentationData
from segdcn.errors import UserValueError
from segdcn.refusals import near
from segdcn.task import SegmentationTask

FROM_DATA = {"num_classes", "class_names", "palette", "mean", "std"}  # of the model's; only data can vary them
TAKEN = {  # keys that a comparison sets itself, and how to get what one may want
    "seed_everything": "--seeds says how many seeds there are",
    "data.seed": "--seeds says how many seeds there are",
    "name": "runs are named by their variant",
    "runs_dir": "runs go below --runs_dir of the comparison",
    "ckpt_path": "every run begins anew, or goes on with its own checkpoint",
    "config": "write one comparison for each file",
    "data": "write one comparison for each data set",
    "model": "vary its keys",
}


@dataclass(frozen=True)
class Variant:
    """One of the things compared.

    Attributes:
        name: Part of the names of files and runs.
        values: What it sets, by the full key: `{"model.deform_layers": 3}`.
    """

    name: str
    values: Mapping[str, Any]

    def flags(self) -> list[str]:
        """Give the flags of `segdcn fit`."""
        return [f"--{key}={_text(value)}" for key, value in self.values.items()]


def variants(vary: Sequence[str]) -> list[Variant]:
    """Make all combinations of what is varied, the last key varying fastest.

    Args:
        vary: `key=value,value` each. Values are YAML. A key without a group is the model's or the data's.

    Raises:
        UserValueError: A part cannot be read, or a key cannot be varied.
    """
    axes: dict[str, list[Any]] = {}
    for text in vary:
        key, values = _axis(text)
        if key in axes:
            raise UserValueError(f"--vary {key} is given twice; give all its values in one")
        axes[key] = values
    if not axes:
        raise UserValueError("nothing is varied; give --vary key=value,value such as --vary deform_layers=0,3")
    leaves = [key.rpartition(".")[2] for key in axes]
    short = {key: leaf if leaves.count(leaf) == 1 else key for key, leaf in zip(axes, leaves, strict=True)}
    made: dict[str, Variant] = {}
    for chosen in itertools.product(*axes.values()):
        pairs = dict(zip(axes, chosen, strict=True))
        name = "+".join(f"{short[key]}={_word(value)}" for key, value in pairs.items())
        while name in made:
            name += "-"
        made[name] = Variant(name, pairs)
    return list(made.values())


def _axis(text: str) -> tuple[str, list[Any]]:
    """Read one `key=value,value`."""
    key, equals, listed = text.partition("=")
    try:
        values = yaml.safe_load(f"[{listed}]")
    except yaml.YAMLError:
        values = None
    if not equals or not key or not values:
        raise UserValueError(f"--vary {text!r} cannot be read; expected key=value,value such as deform_layers=0,3")
    texts = [json.dumps(value, default=str) for value in values]
    if double := next((word for number, word in enumerate(texts) if word in texts[:number]), None):
        raise UserValueError(f"--vary {text!r} has {double} twice")
    return _full_key(key), values


def _full_key(key: str) -> str:
    """Find the group of a key that is given without."""
    model = set(inspect.signature(SegmentationTask).parameters) - FROM_DATA
    data = set(inspect.signature(SegmentationData).parameters)
    groups = {f"model.{name}" for name in model} | {f"data.{name}" for name in data}
    found = next((f"{group}.{key}" for group, names in (("model", model), ("data", data)) if key in names), key)
    if (plain := found.replace("data.init_args.", "data.")) in TAKEN:
        raise UserValueError(f"{key} cannot be varied: {TAKEN[plain]}")
    if "." not in found:
        leaves = {full.partition(".")[2] for full in groups}
        raise UserValueError(
            f"--vary {key}: there is no such setting of model or data{near(key, leaves)}; "
            "write others in full, such as trainer.max_epochs or early_stopping.patience"
        )
    if found.startswith("model.") and found not in groups:
        raise UserValueError(f"--vary {key}: there is no such setting{near(found, groups)}")
    return found


def _word(value: Any) -> str:
    """Write a value so that it can stand in the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._+=]+", "-", _text(value)).strip("-") or "-"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def check_fit_arguments(args: Sequence[str]) -> None:
    """Refuse flags of `fit` that a comparison sets itself.

    Raises:
        UserValueError: There is one.
    """
    given = {arg[2:].partition("=")[0].replace("data.init_args.", "data.") for arg in args if arg.startswith("--")}
    taken = TAKEN | {"print_config": "--dry_run shows the commands of its runs, and each of them takes it"}
    if wrong := sorted(given & (taken.keys() - {"config", "data", "model"})):
        raise UserValueError(f"--{wrong[0]} has no place in a comparison: {taken[wrong[0]]}")
