"""Where a run writes: its folder, and the loggers."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning.loggers import Logger, WandbLogger

from segdcn.code_version import code_version, told
from segdcn.loggers import CSVLog, is_first_process, new_wandb_id, wandb_logger
from segdcn.run import Run, create_run
from segdcn.task import SegmentationTask
from segdcn.whole_file import write_whole


def open_run(going_on: Run | None, runs_dir: Path, name: str, args: Sequence[str], settings: str) -> Run:
    """Make the folder, or go on in that of an earlier run, and write the configuration to it.

    Args:
        going_on: The run that goes on, if one does.
        runs_dir: Folder of all runs.
        name: The run's name.
        args: The verb and its arguments.
        settings: The resolved configuration as YAML.
    """
    if not is_first_process():
        # Other processes write nothing, and ModelCheckpoint takes rank 0's folder for all.
        return going_on or Run(runs_dir / name)
    for part in going_on.checkpoints.glob("*.part") if going_on else ():
        part.unlink()  # a kill in the middle of writing leaves one, which nobody reads
    run = going_on or create_run(runs_dir, name, "" if args[0] == "fit" else f"-{args[0]}")
    write_whole(run.next_config(), f"# {told(code_version())}: segdcn {shlex.join(args)}\n{settings}")
    return run


def find_wandb_id(going_on: dict[str, Any] | None) -> str:
    """Give the id of the run at W&B: that of the run that goes on from this checkpoint, or a new one."""
    return (going_on or {}).get("segdcn", {}).get("wandb_id") or new_wandb_id()


def logged_settings(settings: str, task: SegmentationTask) -> dict[str, Any]:
    """Add to the resolved configuration, given as YAML, what only data and code know."""
    config = yaml.safe_load(settings)
    config["model"] |= {name: task.hparams[name] for name in ("num_classes", "class_names", "class_weights")}
    return config | code_version()


def make_loggers(
    given: Any, run: Run, step: int | None, settings: Any, verb: str, wandb_id: str, logged: dict[str, Any]
) -> tuple[list[Logger], str]:
    """Build CSV and W&B, and behind them what the user configured; none with `trainer.logger: false`.

    Args:
        given: What the trainer was given as `logger`.
        run: Where they write.
        step: Of the checkpoint that the run goes on from, if it does.
        settings: The verb's: name, W&B's mode and project.
        verb: fit, validate or test.
        wandb_id: From `find_wandb_id`.
        logged: From `logged_settings`.

    Returns:
        The loggers, and a line on where the run is to be seen at W&B.
    """
    if given is False:
        return [], "off"
    table = CSVLog(run.metrics)
    if step is not None:
        table.drop_from(step)
    wandb, line = wandb_logger(
        settings.wandb,
        settings.wandb_project,
        name=f"{settings.name}/{run.path.name}",
        folder=run.path,
        run_id=wandb_id,
        job_type=verb,
        config=logged,
    )
    own: list[Logger] = [table] if wandb is None else [table, wandb]
    if isinstance(given, Logger):
        return [*own, given], line
    return [*own, *given] if isinstance(given, list) else own, line


def finish_wandb(loggers: Iterable[Logger], failed: bool) -> None:
    """Close the run at W&B, as what it was: failed or finished."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and is_first_process():
            logger.experiment.finish(exit_code=int(failed))
