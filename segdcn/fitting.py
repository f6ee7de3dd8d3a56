"""What has to fit before a run begins: checkpoint and network, checkpoint and length, the trainer's settings."""

import re
import traceback
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from segdcn.errors import InvalidDataError, UserValueError
from segdcn.task import SegmentationTask

# What Lightning needs to go on, and looks for only when the run has begun.
STATE: dict[str, type] = {
    "epoch": int,
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "pytorch-lightning_version": str,
    "segdcn": dict,
}
# Settings of the trainer that it does not check itself, or only when it is too late.
LEAST = {
    "check_val_every_n_epoch": (1, "1 or more, or null"),
    "accumulate_grad_batches": (1, "1 or more"),
    "log_every_n_steps": (0, "0 or more"),
    "gradient_clip_val": (0, "0 or more, or null"),
    "val_check_interval": (1e-9, "a number of batches, or a share of the epoch above 0"),
}
OPTIONAL = {"segdcn"}  # a Trainer without the command line writes none


def check_checkpoint(checkpoint: dict[str, Any], task: SegmentationTask, say: Callable[[str], None]) -> None:
    """Refuse a checkpoint of other classes or of another network.

    Args:
        checkpoint: From `segdcn.run.read_checkpoint`.
        task: What it is to be loaded into.
        say: Prints a line; called where data are normalised in another way.

    Raises:
        UserValueError: It does not fit.
        InvalidDataError: Lightning did not write it.
    """
    if not isinstance(checkpoint.get("pytorch-lightning_version"), str):
        raise InvalidDataError(
            "the checkpoint does not say which version of Lightning wrote it; fit, validate and test take what fit "
            "wrote, and predict, export and offsets others too"
        )
    saved = checkpoint["hyper_parameters"]
    if saved.get("class_names") != task.hparams["class_names"]:
        raise UserValueError(
            f"the checkpoint knows the classes {_short(saved.get('class_names'))}, "
            f"the data has {_short(task.hparams['class_names'])}; choose data with the same classes"
        )
    for key in ("mean", "std"):
        if saved.get(key) != task.hparams[key]:
            say(f"data.{key} is {task.hparams[key]}, but the checkpoint was trained with {saved.get(key)}")
    ours = {key: tuple(value.shape) for key, value in task.state_dict().items()}
    theirs = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
    if different := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
        first = different[0]
        raise UserValueError(
            f"the checkpoint holds another network: {len(different)} weights differ, the first is {first} "
            f"({theirs.get(first, 'missing')} in the checkpoint, {ours.get(first, 'missing')} here); "
            "leave out the --model flags that change the network"
        )


def check_state(checkpoint: dict[str, Any], path: str) -> None:
    """Refuse a checkpoint that training cannot go on from: it holds weights alone, or something else in their places.

    What `segdcn convert` wrote is from before the first step, and has nothing to go on from but weights.

    Raises:
        InvalidDataError: A part is missing, or is not what it should be.
    """
    if "loops" not in checkpoint and checkpoint.get("global_step") == 0 and checkpoint.get("optimizer_states") == []:
        return
    for part, kind in STATE.items():
        if not isinstance(checkpoint.get(part, {} if part in OPTIONAL else None), kind):
            what = "something else" if part in checkpoint else "nothing"
            raise InvalidDataError(
                f"training cannot go on from {path}, which holds {what} as {part!r}; "
                "take one that fit saved, or start anew from weights"
            )
    if "epoch_progress" not in checkpoint["loops"].get("fit_loop", {}):
        raise InvalidDataError(f"training cannot go on from {path}, which does not say how far it was")


def check_unfinished(checkpoint: dict[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Refuse to go on with a run that has nothing left to train."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    progress = loops.get("epoch_loop.batch_progress", {})
    validation = loops.get("epoch_loop.val_loop.batch_progress", {}).get("total", {})
    if validation.get("processed", 0) < validation.get("started", 0):
        return  # stopped in the last validation
    # `epoch` counts from 0 and is the one that the checkpoint was saved in, at its end or on the way.
    epochs = checkpoint["epoch"] + bool(progress.get("is_last_batch"))
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        raise UserValueError(f"the run has its {epochs} epochs; raise --trainer.max_epochs")
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise UserValueError(f"the run has its {checkpoint['global_step']} steps; raise --trainer.max_steps")


def check_trainer(settings: dict[str, Any]) -> None:
    """Build a trainer of these settings that writes nothing.

    Its constructor sees nothing but the user's settings, so what it refuses is the user's
    to mend; and it is asked before there is a run folder and a W&B run.

    Raises:
        UserValueError: It refuses, or would fail with the first batch.
    """
    bare = {"logger": False, "callbacks": None, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        trainer = Trainer(**{**settings, **bare})
    except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise UserValueError(f"trainer: {error}") from error
    for name, (least, words) in LEAST.items():
        if settings[name] is not None and settings[name] < least:
            raise UserValueError(f"trainer.{name} is {settings[name]}; expected {words}")
    for name in ("max_epochs", "max_steps"):
        if settings[name] == 0:
            raise UserValueError(
                f"trainer.{name} is 0, which trains nothing; expected 1 or more, or -1 for no such end"
            )
    # On one device, without a strategy for more, Lightning leaves batch normalisation as it is.
    several = isinstance(trainer.strategy, ParallelStrategy)
    if settings["sync_batchnorm"] and several and isinstance(trainer.accelerator, CPUAccelerator):
        raise UserValueError(
            "trainer.sync_batchnorm is true, but torch synchronises batch normalisation on GPUs only; "
            "set --trainer.sync_batchnorm false"
        )


def is_of_settings(error: BaseException) -> bool:
    """Tell whether Lightning refused a setting, which it does with errors of any type from its own code."""
    if isinstance(error, MisconfigurationException):
        return True
    frames = list(traceback.walk_tb(error.__traceback__))
    where = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError | TypeError) and where.startswith("pytorch_lightning.")


def is_lost_connection(error: BaseException) -> bool:
    """Tell whether a process waited for another that is no longer there."""
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and re.search(r"gloo|NCCL|by peer", str(error)) is not None


def _short(names: list[str] | None) -> str:
    if names is None:
        return "(none)"
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
