"""The plan of a comparison: what is run, fixed when it first begins."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdcn import __version__
from segdcn.compare.variants import Variant
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

FILE = "plan.json"
SEED_KEYS = ("seed_everything", "data.seed")
# Where a run goes, how it is shown and how fast data are read changes nothing about what is compared.
ELSEWHERE = {"name", "runs_dir", "ckpt_path", "config", "wandb", "wandb_project", "pictures"}
ELSEWHERE_IN_DATA = {"data.num_workers", "data.cache", "data.cache_dir"}


@dataclass(frozen=True)
class Job:
    """One run: a variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Name of its run and of its record."""
        return f"{self.variant.name}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        name: Of the comparison.
        fit: Arguments of `segdcn fit` that all runs share.
        variants: The first is what the others are compared with.
        seeds: 0, 1, ...
        checkpoint: Which weights of a run are measured: those of the `last` or of the `best` epoch.
        settings: For each variant the settings in which it is trained, without the seed, flat.
        starts: For each variant the fingerprint of those weights before the first step that have the
            names of the first variant's.
    """

    name: str
    fit: Sequence[str]
    variants: Sequence[Variant]
    seeds: Sequence[int]
    checkpoint: str
    settings: Mapping[str, Mapping[str, Any]]
    starts: Mapping[str, str]

    def jobs(self) -> Iterator[Job]:
        """All runs, seed by seed: what can be paired is complete early."""
        for seed in self.seeds:
            for variant in self.variants:
                yield Job(variant, seed)

    def starts_alike(self, variant: Variant) -> bool:
        """Tell whether a variant starts from the weights of the first one."""
        return self.starts[variant.name] == self.starts[self.variants[0].name]

    def settings_hash(self, job: Job) -> str:
        """Give a SHA-256 of everything that a run is set to."""
        everything = {**self.settings[job.variant.name], **dict.fromkeys(SEED_KEYS, job.seed)}
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "segdcn": __version__,
            "name": self.name,
            "fit": list(self.fit),
            "variants": {variant.name: dict(variant.values) for variant in self.variants},
            "seeds": list(self.seeds),
            "checkpoint": self.checkpoint,
            "settings": {name: dict(values) for name, values in self.settings.items()},
            "starts": dict(self.starts),
        }


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write a resolved configuration as dotted keys, without the seeds and what changes no result."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        # A mapping that is a value, such as model.loss, is compared by its entries too.
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            yield prefix.replace("data.init_args.", "data."), value

    kept = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    return {key: value for key, value in walk("", kept) if key not in {*SEED_KEYS, *ELSEWHERE_IN_DATA}}


def read_plan(folder: Path) -> Plan:
    """Read the plan of a comparison that was begun.

    Raises:
        MissingFileError: There is none.
        InvalidDataError: It is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise MissingFileError(f"there is no comparison in {folder}; --report_only needs one that was begun")
    try:
        found = json.loads(path.read_text())
        return Plan(
            name=found["name"],
            fit=found["fit"],
            variants=[Variant(name, values) for name, values in found["variants"].items()],
            seeds=found["seeds"],
            checkpoint=found["checkpoint"],
            settings=found["settings"],
            starts=found["starts"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidDataError(f"{path} is damaged; choose another --name to start anew") from error


def keep_plan(folder: Path, plan: Plan) -> None:
    """Put the plan into a new folder, or compare it with the one that is there.

    Raises:
        UserValueError: The folder holds another comparison, or something else.
    """
    if (folder / FILE).exists():
        there = read_plan(folder)
        if difference := _difference(there, plan):
            raise UserValueError(f"{folder} holds another comparison: {difference}; choose another --name")
        return
    if folder.is_dir() and (foreign := sorted(path.name for path in folder.iterdir() if path.name != "lock")):
        raise UserValueError(f"{folder} holds other things, such as {foreign[0]}; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, plan.as_json())


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either whole or not there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def _difference(there: Plan, here: Plan) -> str:
    """Say the first thing in which two plans differ; empty if they do not."""
    for what in ("variants", "seeds", "checkpoint"):
        before, now = there.as_json()[what], here.as_json()[what]
        if before != now or list(before) != list(now):
            return f"its {what} are {_told(before)}, here they are {_told(now)}"
    for variant in here.variants:
        before, now = there.settings[variant.name], json.loads(json.dumps(here.settings[variant.name]))
        for key in [*now, *before]:
            if before.get(key) != now.get(key):
                return f"{key} is {before.get(key)} there and {now.get(key)} here"
    return ""


def _told(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, dict)) else str(value)
