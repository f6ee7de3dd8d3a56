"""One trial: a process that trains, watched from outside.

The process is what W&B's agent would start, with three more arguments: where runs go, the run's
name, and `--ckpt_path last` where an earlier process was stopped. Its W&B run is offline and in the
sweep's group.
"""

import csv
import ctypes
import io
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import segdcn
from segdcn.errors import Stopped
from segdcn.sweep.command import expand, search_path
from segdcn.sweep.file import SweepFile
from segdcn.sweep.study import Trial

# Seconds that a process has to end by itself after each request, before the next and harder one.
PATIENCE = 30.0
ALREADY_DONE = "the run has its"  # what `segdcn fit --ckpt_path last` says of a finished run

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: not between fork and exec
_PR_SET_PDEATHSIG = 1


class TrialProcess:
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
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        """Process id, once it is started."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self._folder / "output.log"

    @property
    def run(self) -> Path | None:
        """The trial's run folder; None before there is one."""
        # A stopped run is gone on with in its folder; one that was stopped too early is followed by another.
        return max((self._runs / self._name).glob("*"), default=None)

    def command(self) -> list[str]:
        """Give the command, as it would be started now."""
        words = expand(self._sweep.command, self._sweep.program, self._arguments, self._folder / "args.json")
        words += ["--runs_dir", str(self._runs), "--name", self._name]
        if project := self._sweep.config.get("project"):
            words += ["--wandb_project", str(project)]
        if any((self._runs / self._name).glob("*/checkpoints/last.ckpt")):
            words += ["--ckpt_path", "last"]
        first = 1 if words[0] == "/usr/bin/env" else 0
        if words[first] == "segdcn":
            words[first : first + 1] = [sys.executable, "-m", "segdcn"]  # this one, whatever the PATH holds
        return words

    def start(self) -> None:
        """Start it, in a process group of its own: Ctrl-C is for the worker, which passes it on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "args.json").write_text(json.dumps(self._arguments))
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self.command(),
                env=trial_environment(self._sweep.name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_tie_to_parent,
            )

    def wait(self, seconds: float) -> int | None:
        """Wait so long for its end; give the exit code, or None if it goes on."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Stop it: by Ctrl-C, after which it saves where it is, and harder if that does not help."""
        assert self._process is not None
        for request in (signal.SIGINT, signal.SIGTERM):
            if self.wait(0) is not None:
                return
            self._process.send_signal(request)
            try:
                if self.wait(PATIENCE) is not None:
                    return
            except (KeyboardInterrupt, Stopped):
                break  # asked a second time
        self.kill()

    def kill(self) -> None:
        """Kill it and all that it started."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def measured(self) -> list[float]:
        """Read the metric so far, one value for each validation."""
        run = self.run
        return read_metric(run / "metrics.csv", self._sweep.metric) if run else []

    def was_done(self) -> bool:
        """Tell whether the run turned out to be finished already, when it was gone on with."""
        return self._last_line().startswith(ALREADY_DONE)

    def failure(self) -> str:
        """Say in a line why it failed."""
        code = self.wait(0)
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return self._last_line()

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return last.removeprefix("segdcn: error: ")


def run_name(number: int) -> str:
    """Name a trial's run."""
    return f"trial-{number:03d}"


def trial_environment(group: str) -> dict[str, str]:
    """Make the environment of a trial: this one's, with W&B offline and the run in the sweep's group."""
    environment = dict(os.environ)
    # Names of another run, which W&B would take for this one's.
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE"):
        environment.pop(name, None)
    if environment.get("WANDB_MODE") != "disabled":
        environment["WANDB_MODE"] = "offline"
    environment["WANDB_RUN_GROUP"] = group
    # Trials run this very package, also where it was not found through an installation.
    package = str(Path(segdcn.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    return environment | {"PATH": search_path()}


def read_metric(path: Path, metric: str) -> list[float]:
    """Read one column of a metrics.csv that may be written at this moment; NaN is left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    whole_lines = text[: text.rfind("\n") + 1]
    found = [row.get(metric) for row in csv.DictReader(io.StringIO(whole_lines))]
    return [value for value in map(float, filter(None, found)) if not math.isnan(value)]


def _tie_to_parent() -> None:
    """In the new process: take Ctrl-C also if the worker, in the background, ignores it; end with the worker.

    A worker that is killed must not leave a process behind that trains on, while another worker
    goes on with the same run.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
