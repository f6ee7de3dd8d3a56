"""Doing all runs of a comparison, one after the other, with a word about each."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from segdcn.compare import job as jobs
from segdcn.compare.plan import Plan
from segdcn.compare.record import read_record
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


def work(folder: Path, plan: Plan, console: Console, lock: int) -> dict[str, str]:
    """Do the runs that are not finished; one that fails does not end the others.

    Args:
        folder: The comparison's.
        plan: What is compared.
        console: Where to tell.
        lock: From `only_one`.

    Returns:
        The runs that failed, with why.

    Raises:
        UserError: With the first seed every variant has failed: what fails them all is the recipe's.
    """
    listed = list(plan.jobs())
    failed: dict[str, str] = {}
    shown = _Shown(console, len(listed))
    with shown:
        for number, job in enumerate(listed, 1):
            run = f"run {number} of {len(listed)}  {job.name}"
            if record := read_record(folder, plan, job):
                shown.line(f"{run}: done before  {_told(record.results['mIoU'])}")
            else:
                shown.line(f"{run}: begins")
                started = time.monotonic()
                try:
                    record = jobs.do(folder, plan, job, partial(_say, shown, job.name), [lock])
                    spent = timedelta(seconds=round(time.monotonic() - started))
                    shown.line(f"{run}: {_told(record.results['mIoU'])}  {spent}")
                except jobs.JobFailed as error:
                    failed[job.name] = str(error)
                    shown.line(f"{run}: failed: {error}")
                    if len(failed) == number == len(plan.variants):
                        raise UserError(f"every variant has failed, the last with: {error}") from error
            shown.advance()
    return failed


def _say(shown: "_Shown", name: str, text: str) -> None:
    shown.now(f"{name}, {text}")


def _told(miou: float | None) -> str:
    return "mIoU -" if miou is None else f"mIoU {miou:.4f}"


class _Shown:
    """A bar on a terminal, and lines; in a log lines alone."""

    def __init__(self, console: Console, total: int) -> None:
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
        self._bar.console.print(escape(text), highlight=False, soft_wrap=True)
