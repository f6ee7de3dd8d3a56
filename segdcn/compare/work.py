"""Doing all runs of a comparison, one after the other, with a word about each."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from segdcn.compare import job as jobs
from segdcn.compare.plan import Job, Plan
from segdcn.compare.record import read_record, record_file
from segdcn.errors import UserError, UserValueError

LINE_EVERY = 60.0  # seconds without a line after which a log says how far a run is


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Keep others from working on the same comparison.

    The system ends that with this process and those that it gives the lock to. Yields the lock's descriptor.

    Raises:
        UserValueError: Somebody does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserValueError(f"another process works on {folder}; wait for it, or choose another --name") from error
        yield lock.fileno()


def work(
    folder: Path, plan: Plan, console: Console, lock: int, seed_done: Callable[[], object] = lambda: None
) -> dict[str, str]:
    """Do the runs that are not finished; one that fails does not end the others.

    Args:
        folder: The comparison's.
        plan: What is compared.
        console: Where to tell.
        lock: From `only_one`.
        seed_done: Called when all variants have been done with a seed, but for the last.

    Returns:
        The runs that failed, with why.

    Raises:
        UserError: With the first seed every variant has failed: what fails them all is the recipe's.
    """
    listed = list(plan.jobs())
    failed: dict[str, str] = {}
    shown, pace = _Shown(console, plan.name, len(listed)), _Pace()
    with shown:
        for number, job in enumerate(listed, 1):
            run = f"run {number} of {len(listed)}  {job.name}"
            if record := read_record(folder, plan, job):
                shown.line(f"{run}: done before  {_told(record.results['mIoU'])}")
            else:
                shown.line(f"{run}: begins")
                started = time.monotonic()
                failure_file(folder, job).unlink(missing_ok=True)
                try:
                    record = jobs.do(folder, plan, job, partial(_say, shown, job.name), [lock])
                    open_runs = sum(not record_file(folder, other).is_file() for other in listed[number:])
                    shown.line(f"{run}: {_told(record.results['mIoU'])}  {pace.told(started, open_runs)}")
                except jobs.JobFailed as error:
                    failed[job.name] = str(error)
                    failure_file(folder, job).parent.mkdir(exist_ok=True)
                    failure_file(folder, job).write_text(str(error))
                    shown.line(f"{run}: failed: {error}")
                    if len(failed) == number == len(plan.variants):
                        raise UserError(f"every variant has failed, the last with: {error}") from error
                if number < len(listed) and number % len(plan.variants) == 0:
                    seed_done()
            shown.advance()
    return failed


def failure_file(folder: Path, job: Job) -> Path:
    """Name the file that says why a run failed."""
    return folder / "logs" / f"{job.name}.failed"


def read_failures(folder: Path, plan: Plan) -> dict[str, str]:
    """Read which runs failed the last time that they were tried, with why."""
    files = {job.name: failure_file(folder, job) for job in plan.jobs()}
    return {name: file.read_text() for name, file in files.items() if file.is_file()}


class _Pace:
    """How long runs take, and so how long the others will."""

    def __init__(self) -> None:
        self._spent: list[float] = []

    def told(self, started: float, others: int) -> str:
        """Say how long a run took that ends now, and how long the others may take."""
        self._spent.append(time.monotonic() - started)
        left = timedelta(seconds=round(others * sum(self._spent) / len(self._spent)))
        return f"{timedelta(seconds=round(self._spent[-1]))}{f'  about {left} left' if others else ''}"


def _say(shown: "_Shown", name: str, text: str) -> None:
    shown.now(f"{name}, {text}")


def _told(miou: float | None) -> str:
    return "mIoU -" if miou is None else f"mIoU {miou:.4f}"


class _Shown:
    """A bar on a terminal, and lines; in a log lines alone."""

    def __init__(self, console: Console, name: str, total: int) -> None:
        self._name = name  # two comparisons may write into one log
        columns = (SpinnerColumn(), TextColumn("runs"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        text = TextColumn("{task.description}", markup=False)
        self._bar = Progress(*columns, text, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total)
        self._spoke_at = 0.0

    def __enter__(self) -> "_Shown":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self) -> None:
        self._bar.advance(self._task)

    def now(self, text: str) -> None:
        """Show what happens; in a log once a minute."""
        self._bar.update(self._task, description=text)
        if not self._bar.console.is_terminal and time.monotonic() - self._spoke_at > LINE_EVERY:
            self.line(text)

    def line(self, text: str) -> None:
        """Say something that stays."""
        self._spoke_at = time.monotonic()
        said = text if self._bar.console.is_terminal else f"{self._name}  {text}"
        self._bar.console.print(escape(said), highlight=False, soft_wrap=True)
