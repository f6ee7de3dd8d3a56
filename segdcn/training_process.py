"""`segdcn fit` and its kin as processes of their own, watched from outside.

For what trains more than one network: a process can be stopped, and one that fails, or takes all
memory, leaves the others alone.
"""

import csv
import ctypes
import io
import math
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import segdcn
from segdcn.errors import Stopped

# Seconds that a process has to end by itself after each request, before the next and harder one.
PATIENCE = 30.0
ALREADY_DONE = "the run has its"  # what `segdcn fit --ckpt_path last` says of a finished run

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: not between fork and exec
_PR_SET_PDEATHSIG = 1


class TrainingProcess:
    """A process, in a group of its own: Ctrl-C is for whoever started it, who passes it on.

    Args:
        log: File to which what it prints is appended; its folder is made.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        """Process id, once it is started."""
        return self._process.pid if self._process else None

    def run(self, command: Sequence[str], environment: Mapping[str, str], held: Sequence[int] = ()) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            environment: All of its environment.
            held: Descriptors of files that it keeps open too, such as of a lock that it shall hold as long as it lives.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=held,
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


def group_environment(group: str) -> dict[str, str]:
    """Make an environment for the processes of a group: this one's, without what W&B says of another run."""
    environment = dict(os.environ)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE"):
        environment.pop(name, None)
    environment["WANDB_RUN_GROUP"] = group
    # They run this very package, also where it was not found through an installation.
    package = str(Path(segdcn.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
    return environment


def newest_run(folder: Path) -> Path | None:
    """Find the newest run folder below that of a run's name; None if there is none."""
    # A stopped run is gone on with in its folder; one that was stopped too early is followed by another.
    return max(folder.glob("*"), default=None)


def can_go_on(folder: Path) -> bool:
    """Tell whether a run of that name has saved something to go on from."""
    return any(folder.glob("*/checkpoints/last.ckpt"))


def read_metric(path: Path, metric: str) -> list[float]:
    """Read one column of a metrics.csv that may be written at this moment; NaN and infinity are left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    whole_lines = text[: text.rfind("\n") + 1]
    found = [row.get(metric) for row in csv.DictReader(io.StringIO(whole_lines))]
    return [value for value in map(float, filter(None, found)) if math.isfinite(value)]


def _tie_to_parent() -> None:
    """In the new process: take Ctrl-C also if the parent, in the background, ignores it; end with the parent.

    A parent that is killed must not leave a process behind that trains on, while another one goes on
    with the same run.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
