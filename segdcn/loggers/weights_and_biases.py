"""Weights & Biases: Lightning's logger, and how a run there is started."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segdcn.loggers.wandb_environment import WandbMode, has_wandb_key, keep_quiet_without_home, wanted_mode
from segdcn.stopwatch import Stopwatch


def is_first_process() -> bool:
    """Tell whether this process is the one that writes, also before there is a trainer to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0


class WandbLog(WandbLogger):
    """Lightning's logger for W&B, with a stopwatch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stopwatch = Stopwatch()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send numbers or media in one record, with the step as `trainer/global_step`."""
        with self.stopwatch:
            super().log_metrics(metrics, step)

    def send(self, media: Mapping[str, Any], step: int) -> None:
        """Send pictures in one record; their time counts where they are made."""
        super().log_metrics(media, step)

    def send_checkpoint(self, path: Path, alias: str, facts: dict[str, Any]) -> None:
        """Send a checkpoint as an artifact `run-<id>`, with `alias`; offline it is uploaded with the rest.

        Args:
            path: The file. W&B uploads a copy of it, which lies in the run's folder until then.
            alias: `best` or `last`.
            facts: Kept with it: the step, the score.
        """
        import wandb

        # Else it lies below the home folder, where `wandb sync` on another machine would not find it.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(self.save_dir or ".").absolute() / "wandb"))
        artifact = wandb.Artifact(f"run-{self.version}", type="model", metadata=facts)
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact, aliases=[alias])


def wandb_log(loggers: Sequence[Logger]) -> WandbLog | None:
    """Find the log of W&B among loggers; None where there is none, and in all processes but the first."""
    found = [logger for logger in loggers if isinstance(logger, WandbLog)]
    return found[0] if found and is_first_process() else None


def wandb_logger(
    mode: WandbMode, project: str, name: str, folder: Path, run_id: str, job_type: str, config: dict[str, Any]
) -> tuple[WandbLog | None, str]:
    """Start a W&B run that never prompts and never hangs.

    Args:
        mode: `auto` is online where an API key is set and offline otherwise; the variable
            WANDB_MODE overrides `auto`. `online` without a key, or with no way to the
            server, becomes offline.
        project: W&B's project.
        name: The run's name there.
        folder: Run folder; the files go to its `wandb/`.
        run_id: From `new_wandb_id`, or the id of the run that goes on.
        job_type: fit, validate or test.
        config: The whole resolved configuration.

    Returns:
        The logger (None if off), and a line on where the run is to be seen.
    """
    if mode == "auto":
        mode = wanted_mode()
    if mode == "off":
        return None, "off"

    if not is_first_process():
        # Lightning gives other processes a dummy in place of the run.
        return WandbLog(project=project, save_dir=str(folder), id=run_id), ""

    # Imported here: a second or more, which a run without W&B need not pay.
    import wandb

    keep_quiet_without_home()
    reason = ""
    if mode == "online" and not has_wandb_key():
        mode, reason = "offline", " (no API key is set)"
    arguments: dict[str, Any] = {
        "project": project,
        "name": name,
        "dir": str(folder.absolute()),  # its service may have been started in another working directory
        "id": run_id,
        "resume": "allow",
        "job_type": job_type,
        "config": config,
        "settings": wandb.Settings(silent=True, init_timeout=30),
    }
    try:
        run = wandb.init(**arguments, mode="online" if mode == "online" else "offline")
    except wandb.errors.Error as error:
        if mode == "offline":
            raise
        mode, reason = "offline", f" ({str(error).splitlines()[0]})"
        wandb.teardown()  # its service still holds the id of the run that did not start
        run = wandb.init(**arguments, mode="offline")

    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    # Without this the summary, by which runs are sorted and compared, is the last value.
    run.define_metric("val/mIoU", step_metric="trainer/global_step", summary="max")
    logger = WandbLog(experiment=run, project=project, save_dir=str(folder), id=run_id)
    if mode == "online":
        return logger, str(run.url)
    # A pattern: a run that was stopped and resumed has a folder for each part, all of this id.
    parts = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*-{run_id}"
    return logger, f"offline{reason}; to upload: wandb sync {parts}"
