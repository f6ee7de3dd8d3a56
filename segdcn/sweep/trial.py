"""One trial: a process that trains, watched from outside.

The process is what W&B's agent would start, with three more arguments: where runs go, the run's
name, and `--ckpt_path last` where an earlier process was stopped. Its W&B run is offline and in the
sweep's group.
"""

import json
import sys
from pathlib import Path

from segdcn.sweep.command import expand, search_path
from segdcn.sweep.file import SweepFile
from segdcn.sweep.study import Trial
from segdcn.training_process import TrainingProcess, can_go_on, group_environment, newest_run, read_metric


class TrialProcess(TrainingProcess):
    """A trial's process and its files.

    Args:
        sweep: The sweep.
        folder: The sweep's folder.
        trial: What is tried.
    """

    def __init__(self, sweep: SweepFile, folder: Path, trial: Trial) -> None:
        self._sweep = sweep
        self._name = run_name(trial.number)
        self._runs = folder / "runs"
        self._folder = folder / "trials" / self._name
        self._arguments = sweep.arguments(trial.values)
        super().__init__(self._folder / "output.log")

    @property
    def run_folder(self) -> Path | None:
        """The trial's run folder; None before there is one."""
        return newest_run(self._runs / self._name)

    def command(self) -> list[str]:
        """Give the command, as it would be started now."""
        words = expand(self._sweep.command, self._sweep.program, self._arguments, self._folder / "args.json")
        words += ["--runs_dir", str(self._runs), "--name", self._name]
        if project := self._sweep.config.get("project"):
            words += ["--wandb_project", str(project)]
        if can_go_on(self._runs / self._name):
            words += ["--ckpt_path", "last"]
        first = 1 if words[0] == "/usr/bin/env" else 0
        if words[first] == "segdcn":
            words[first : first + 1] = [sys.executable, "-m", "segdcn"]  # this one, whatever the PATH holds
        return words

    def start(self) -> None:
        """Start it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "args.json").write_text(json.dumps(self._arguments))
        self.run(self.command(), trial_environment(self._sweep.name))

    def measured(self) -> list[float]:
        """Read the metric so far, one value for each validation."""
        run = self.run_folder
        return read_metric(run / "metrics.csv", self._sweep.metric) if run else []


def run_name(number: int) -> str:
    """Name a trial's run."""
    return f"trial-{number:03d}"


def trial_environment(group: str) -> dict[str, str]:
    """Make the environment of a trial: this one's, with W&B offline and the run in the sweep's group."""
    environment = group_environment(group) | {"PATH": search_path()}
    if environment.get("WANDB_MODE") != "disabled":
        environment["WANDB_MODE"] = "offline"
    return environment
