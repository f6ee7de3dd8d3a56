"""What a finished run leaves for the report: one small file."""

import csv
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

import segdcn
from segdcn.callbacks.evidence import FILE as EVIDENCE
from segdcn.callbacks.step_cost import StepCost
from segdcn.compare.plan import Job, Plan, write_json
from segdcn.errors import InvalidDataError
from segdcn.run import read_checkpoint
from segdcn.timing import machine

SIZES = ("small", "medium", "large", "background")  # of objects, in what is told of effective dilation


@dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        variant: Name of the variant.
        seed: Its seed.
        facts: What was run where: date, versions, machine, hash of the settings, folders, length.
        cost: Seconds per step and bytes of memory of training, and number of parameters.
        results: What `validate` measured, as in its results.json.
        offsets: By deformable layer: health, and effective dilation by size of objects.
    """

    variant: str
    seed: int
    facts: dict[str, Any]
    cost: dict[str, Any]
    results: dict[str, Any]
    offsets: dict[str, dict[str, Any]]


def record_file(folder: Path, job: Job) -> Path:
    """Name the file of a run's record."""
    return folder / f"{job.name}.json"


def read_records(folder: Path, plan: Plan) -> list[Record]:
    """Read the records of all runs that are finished.

    Raises:
        InvalidDataError: One is damaged, or of other settings than the plan's.
    """
    return [record for job in plan.jobs() if (record := read_record(folder, plan, job)) is not None]


def read_record(folder: Path, plan: Plan, job: Job) -> Record | None:
    """Read the record of a run; None if it is not finished."""
    path = record_file(folder, job)
    if not path.is_file():
        return None
    try:
        record = Record(**json.loads(path.read_text()))
        settings = record.facts["settings_sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidDataError(f"{path} is damaged; delete it to have this run measured again") from error
    if (record.variant, record.seed, settings) != (job.variant.name, job.seed, plan.settings_hash(job)):
        raise InvalidDataError(f"{path} is of a run with other settings than {folder / 'plan.json'} says; move it away")
    return record


def write_record(folder: Path, plan: Plan, job: Job, checkpoint: Path, validated: Path) -> Record:
    """Collect what a run left, and write it.

    Args:
        folder: The comparison's.
        plan: What is compared.
        job: The run.
        checkpoint: The weights that were measured.
        validated: Run folder of `validate`.
    """
    last = read_checkpoint(checkpoint.with_name("last.ckpt"))
    spent = last.get("callbacks", {}).get(StepCost().state_key, {})
    evidence = json.loads((validated / EVIDENCE).read_text())
    dilations = _effective_dilations(validated / "pictures" / "effective_dilation.csv")
    record = Record(
        variant=job.variant.name,
        seed=job.seed,
        facts={
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "segdcn": segdcn.__version__,
            "commit": commit(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": machine(torch.device("cpu")),
            "device": evidence["device"],
            "settings_sha256": plan.settings_hash(job),
            "checkpoint": _below(folder, checkpoint),
            "run": _below(folder, checkpoint.parents[1]),
            "validation": _below(folder, validated),
            "epochs": last["epoch"] + 1,
            "steps": last["global_step"],
        },
        cost={
            "seconds_per_step": spent.get("seconds_per_step"),
            "memory": spent.get("memory"),
            "parameters": evidence["parameters"],
        },
        results=json.loads((validated / "results.json").read_text()),
        offsets={
            name: {**values, "effective_dilation": dilations.get(name, {})}
            for name, values in evidence["offsets"].items()
        },
    )
    write_json(record_file(folder, job), asdict(record))
    return record


def commit() -> str | None:
    """Give the git commit of this package, marked where it was changed since; None where it is no clone."""
    root = Path(segdcn.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _effective_dilations(path: Path) -> dict[str, dict[str, float]]:
    """Read the means by size of objects, for each layer, from what `EffectiveDilationLog` wrote."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] in SIZES]
    layers = [column.removesuffix(" mean") for column in rows[0] if column.endswith(" mean")] if rows else []
    return {layer: {row["group"]: float(row[f"{layer} mean"]) for row in rows} for layer in layers}


def _below(folder: Path, path: Path) -> str:
    """Write a path as seen from the comparison's folder, which may be moved."""
    return path.relative_to(folder).as_posix()
