"""What a worker shows while trials run: a bar on a terminal, and a line for each trial that ends."""

import json
import time
from datetime import timedelta

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from segdcn.sweep.file import SweepFile
from segdcn.sweep.study import Outcome, Study, Trial

LINE_EVERY = 60.0  # seconds without a line after which a log says how far a trial is


class Shown:
    """Shows a worker's doings; use as a context.

    Args:
        study: The trials.
        console: Where to.
    """

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        columns = (SpinnerColumn(), TextColumn("trials"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
        text = TextColumn("{task.description}", markup=False)
        # In a log lines say it all.
        self._bar = Progress(*columns, text, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=study.total)
        self._spoke_at = 0.0

    def __enter__(self) -> "Shown":
        self._bar.start()
        self._count()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def began(self, trial: Trial) -> None:
        """Show which trial runs, with what values."""
        verb = "goes on" if trial.goes_on else "begins"
        self._describe(f"trial {trial.number}")
        self._say(f"trial {trial.number} {verb}  {told(self._study.sweep, trial.values)}")

    def measured(self, trial: Trial, values: list[float]) -> None:
        """Show the last value; in a log once a minute."""
        text = f"trial {trial.number}, validation {len(values)}: {self._study.sweep.metric} {values[-1]:.4f}"
        self._describe(text)
        if not self._console.is_terminal and time.monotonic() - self._spoke_at > LINE_EVERY:
            self._say(text)

    def lost(self, trial: Trial) -> None:
        """Say that another worker does it."""
        self._say(f"trial {trial.number}: another worker has taken it, since this one gave no sign of life")

    def ended(self, trial: Trial, outcome: Outcome, score: float | None, seconds: float, reason: str) -> None:
        """Say how it ended."""
        measured = "" if score is None else f"  {self._study.sweep.metric} {score:.4f}"
        because = f": {reason}" if reason else ""
        self._say(f"trial {trial.number} {outcome}{measured}  {timedelta(seconds=round(seconds))}{because}")
        self._count()

    def waits(self, numbers: list[int]) -> None:
        """Say who is waited for, once."""
        text = "waiting for " + ", ".join(f"trial {number} ({self._study.claims.holder(number)})" for number in numbers)
        if self._console.is_terminal or time.monotonic() - self._spoke_at > LINE_EVERY:
            self._describe(text)
            if not self._console.is_terminal:
                self._say(text)
        self._count()

    def _count(self) -> None:
        done = sum(row.state != "running" for row in self._study.rows())
        self._bar.update(self._task, completed=done)

    def _describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def _say(self, text: str) -> None:
        self._spoke_at = time.monotonic()
        self._bar.console.print(escape(text), highlight=False, soft_wrap=True)


def told(sweep: SweepFile, values: dict) -> str:
    """Tell the values that vary, as in `model.lr=0.01`."""
    varied = [parameter.name for parameter in sweep.parameters if not parameter.is_constant]
    return "  ".join(f"{name}={json.dumps(short(values[name]))}" for name in varied if name in values)


def short(value: object) -> object:
    """Round a drawn number for reading."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
