"""The folder a run writes to, and how a stopped run is found again.

runs/<name>/<time>/
    config.yaml                 everything that was set, defaults included
    config_resumed_1.yaml       the same for the first resumption, and so on
    checkpoints/{best,last}.ckpt
    metrics.csv  pictures/  wandb/
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError, system_refusal
from segdcn.fingerprint import fingerprint

# Bare words for --ckpt_path, which stand for a file of the newest run of that name.
CHECKPOINT_WORDS = ("last", "best")

# Where a checkpoint keeps the fingerprint of its network's weights.
HASH = "weights_sha256"


class RunFailed(Exception):
    """Something unexpected happened in a run; the cause is the exception itself.

    Attributes:
        run_folder: The run's folder, which shall hold the traceback.
    """

    def __init__(self, run_folder: Path) -> None:
        super().__init__(str(run_folder))
        self.run_folder = run_folder


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of best.ckpt and last.ckpt."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures written at the end of fit."""
        return self.path / "pictures"

    @property
    def metrics(self) -> Path:
        """The table of all logged numbers."""
        return self.path / "metrics.csv"

    def next_config(self) -> Path:
        """Where the configuration goes: config.yaml, or config_resumed_<n>.yaml beside it."""
        first = self.path / "config.yaml"
        if not first.exists():
            return first
        number = 1
        while (resumed := self.path / f"config_resumed_{number}.yaml").exists():
            number += 1
        return resumed


def create_run(runs_dir: Path, name: str, label: str = "") -> Run:
    """Make a new run folder, `<runs_dir>/<name>/<time>`, that no other run has.

    mkdir either makes the folder or fails, so of two runs started in the same second, on
    one machine or on a shared disk, one gets the plain time and the other `<time>-2`.

    Args:
        runs_dir: Folder of all runs.
        name: The run's name.
        label: Put behind the time, for what is not training: `-validate`.
    """
    check_name(name)
    parent = runs_dir / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}{label}"
        number = 1
        while True:
            path = parent / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
                return Run(path)
            except FileExistsError:
                number += 1
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserValueError(f"cannot make a run folder in {parent}: {reason}; choose another --runs_dir") from error


def check_name(name: str) -> None:
    """Refuse a run name that is not a single plain folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=-]*", name):
        raise UserValueError(
            f"{name!r} cannot be a run's name; use letters, digits and ._+=- (it becomes a folder of --runs_dir)"
        )


def find_checkpoint(runs_dir: Path, name: str, word: str) -> Path:
    """Find `last.ckpt` or `best.ckpt` of the newest run of that name that has one.

    Newest by the time in the folder's name, and among equal times by the suffix.
    """
    check_name(name)
    parent = runs_dir / name
    found = [path for path in parent.glob(f"*/checkpoints/{word}.ckpt") if path.is_file()]
    if not found:
        others = sorted({path.parents[2].name for path in runs_dir.glob(f"*/*/checkpoints/{word}.ckpt")} - {name})
        elsewhere = f"; runs that have one: {', '.join(others)} (choose by --name)" if others else ""
        raise MissingFileError(f"--ckpt_path {word}: no run under {parent} has a {word}.ckpt{elsewhere}")
    return max(found, key=lambda path: _age(path.parents[1].name))


def _age(folder: str) -> tuple[str, int]:
    """Sort key of a run folder's name: time, then the number behind it."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?:-(\d+))?", folder)
    return (match[1], int(match[2] or 1)) if match else (folder, 1)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of ours onto the CPU, without executing anything in it.

    Raises:
        MissingFileError: There is none.
        InvalidDataError: It is damaged, of another kind, or its weights are not those that were saved.
    """
    if not path.is_file():
        raise MissingFileError(f"there is no checkpoint {path}; --ckpt_path takes a file, 'last' or 'best'")
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a foreign file is in the error
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every kind of broken file
        if isinstance(error, OSError) and system_refusal(error) is not None:
            raise InvalidDataError(f"{path} cannot be read ({error.strerror})") from error
        raise InvalidDataError(f"{path} cannot be read as a checkpoint: it is damaged or of another kind") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise InvalidDataError(f"{path} is not a checkpoint of segdcn: it has no state_dict and hyper_parameters")
    weights, settings = checkpoint["state_dict"], checkpoint["hyper_parameters"]
    are_dicts = isinstance(weights, dict) and isinstance(settings, dict)
    named = are_dicts and all(isinstance(name, str) for name in (*weights, *settings))
    if not named or not all(map(_is_plain, weights.values())):
        raise InvalidDataError(f"{path} is not a checkpoint of segdcn: it holds other things than weights and settings")
    if HASH in checkpoint and fingerprint(network_weights(weights)) != checkpoint[HASH]:
        raise InvalidDataError(
            f"the weights in {path} are not those that were saved: they were changed, or are damaged; "
            "take an untouched copy"
        )
    if lost := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise InvalidDataError(
            f"{len(lost)} weights in {path} are infinite or NaN, the first is {lost[0]}: the network is lost; "
            "take an earlier checkpoint"
        )
    return checkpoint


def _is_plain(weight: object) -> bool:
    """Whether it is a tensor with all its numbers in a row: not sparse, not quantised, not without storage."""
    return (
        isinstance(weight, Tensor)
        and weight.layout == torch.strided
        and weight.device.type == "cpu"
        and not weight.is_quantized
    )


def network_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Pick the network's weights from a task's, under the network's own names."""
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
