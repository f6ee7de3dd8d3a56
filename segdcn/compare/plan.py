"""The plan of a comparison: what is run, fixed when it first begins."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
class Start:
    """Weights before the first step, as hashes; those that make offsets are apart.

    Attributes:
        weights: All others.
        shared: Those others that all variants of the plan have.
        offsets_move: Whether the offsets are not zero.
    """

    weights: str
    shared: str
    offsets_move: bool


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
        starts: For each variant what it starts from.
        data: For each variant the hash of its samples.
    """

    name: str
    fit: Sequence[str]
    variants: Sequence[Variant]
    seeds: Sequence[int]
    checkpoint: str
    settings: Mapping[str, Mapping[str, Any]]
    starts: Mapping[str, Start]
    data: Mapping[str, str]

    def jobs(self) -> Iterator[Job]:
        """All runs, seed by seed: what can be paired is complete early."""
        for seed in self.seeds:
            for variant in self.variants:
                yield Job(variant, seed)

    def starts_alike(self, variant: Variant) -> bool:
        """Tell whether a variant starts from the weights of the first one, as far as it has them."""
        return self.starts[variant.name].shared == self.starts[self.variants[0].name].shared

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
            "starts": {name: asdict(start) for name, start in self.starts.items()},
            "data": dict(self.data),
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
            starts={name: Start(**start) for name, start in found["starts"].items()},
            data=found["data"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidDataError(f"{path} is damaged; choose another --name to start anew") from error


def keep_plan(folder: Path, plan: Plan) -> None:
    """Put the plan into a new folder, or compare it with the one that is there, which it may add runs to.

    Raises:
        UserValueError: The folder holds another comparison, or something else.
    """
    if (folder / FILE).exists():
        if difference := difference_from(read_plan(folder), plan):
            raise UserValueError(f"{folder} holds another comparison: {difference}; choose another --name")
    elif folder.is_dir() and (foreign := sorted(path.name for path in folder.iterdir() if path.name != "lock")):
        raise UserValueError(f"{folder} holds other things, such as {foreign[0]}; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, plan.as_json())


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either whole or not there."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def difference_from(there: Plan, here: Plan) -> str:
    """Say why a plan does not go on with one that is there; empty if it does.

    It may have more seeds, and more variants after the first; all else has to be as it was.
    """
    before, now = ([variant.name for variant in plan.variants] for plan in (there, here))
    if before[0] != now[0] or not set(before) <= set(now):
        return (
            f"its variants are {', '.join(before)}, here they are {', '.join(now)}; more may come after the same first"
        )
    if len(here.seeds) < len(there.seeds):
        return f"it has {len(there.seeds)} seeds, here there are {len(here.seeds)}; there may be more"
    if there.checkpoint != here.checkpoint:
        return f"it measures the {there.checkpoint} epoch, here it is the {here.checkpoint} one"
    settings = json.loads(json.dumps(here.settings))
    for name in before:
        old, new = there.settings[name], settings[name]
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                return f"{key} is {old.get(key)} there and {new.get(key)} here"
        if (there.starts[name].weights, there.starts[name].offsets_move) != (
            here.starts[name].weights,
            here.starts[name].offsets_move,
        ):
            return f"{name} starts from other weights here, under the same settings"
        if there.data[name] != here.data[name]:
            return f"the samples of {name} have other names or sizes here, under the same settings"
    return ""
