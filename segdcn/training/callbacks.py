"""Which callbacks a verb gets beside the user's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from segdcn.callbacks.averaging import AveragedWeights
from segdcn.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from segdcn.callbacks.cost import Cost
from segdcn.callbacks.early_stopping import EarlyStop, StopEarly
from segdcn.callbacks.next_epoch import NextEpoch
from segdcn.callbacks.plan import Plan
from segdcn.callbacks.progress import Bar, Lines
from segdcn.callbacks.results import Results
from segdcn.callbacks.stopping import StopOnSignal
from segdcn.data import SegmentationData
from segdcn.loggers import CSVLog, WandbLog
from segdcn.run import Run
from segdcn.stopwatch import Stopwatch


def progress_callback(terminal: bool) -> Callback:
    """Build what shows how far it is: a bar on a terminal, lines in a file."""
    return Bar() if terminal else Lines()


def training_callbacks(ema_decay: float | None, early_stopping: EarlyStop | None) -> list[Callback]:
    """Build what only training needs; averaging first, so that all others see averaged weights when fit ends."""
    own: list[Callback] = []
    if ema_decay is not None:
        own.append(AveragedWeights(ema_decay))
    if early_stopping is not None:
        own.append(StopEarly(early_stopping))
    return [*own, NextEpoch(), Plan()]


def saving_callbacks(run: Run) -> list[Callback]:
    """Build what writes checkpoints: the best, the last, and the last where the system ends the run."""
    best, last = BestCheckpoint(run.checkpoints), LastCheckpoint(run.checkpoints)
    return [best, last, StopOnSignal(run.checkpoints / "last.ckpt")]


def cost_of(parts: dict[str, Stopwatch], loggers: Sequence[Logger]) -> Cost:
    """Build what counts the time of all that logs: the parts, and loggers of ours."""
    for logger in loggers:
        if isinstance(logger, CSVLog | WandbLog):
            parts = parts | {"metrics_csv" if isinstance(logger, CSVLog) else "wandb": logger.stopwatch}
    return Cost(parts)


def results_of(verb: str, run: Run, settings: Any, data: SegmentationData, precision: Any) -> Results:
    """Build what writes the results of validate and test.

    Args:
        verb: validate or test.
        run: Where to.
        settings: The verb's: checkpoint and class of the data.
        data: What is measured on.
        precision: The trainer's.
    """
    described = {
        "class": settings.data.class_path,
        "root": str(data.root.absolute()),
        "split": data.val_split if verb == "validate" else data.test_split,
        "limit": data.eval_limit,
    }
    facts = {"verb": verb, "data": described, "precision": str(precision)}
    return Results(run.path, Path(settings.ckpt_path), facts)
