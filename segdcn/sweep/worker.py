"""One worker of a local sweep: takes trials until none is left."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from segdcn.errors import UserError
from segdcn.sweep.study import Outcome, Study, Trial
from segdcn.sweep.trial import TrialProcess

BEAT_EVERY = 10.0  # seconds between signs of life
LOOK_EVERY = 1.0  # seconds between looks at a trial's process and numbers
HOPELESS = 3  # trials that fail under a worker before one succeeds: what fails them all is the sweep's


class Listener(Protocol):
    """What is told of a worker's doings."""

    def began(self, trial: Trial) -> None:
        """Tell that a trial begins, or goes on."""

    def measured(self, trial: Trial, values: list[float]) -> None:
        """Tell all values of the metric so far."""

    def lost(self, trial: Trial) -> None:
        """Tell that another worker has taken a trial, since this one gave no sign of life."""

    def ended(self, trial: Trial, outcome: Outcome, score: float | None, seconds: float, reason: str) -> None:
        """Tell how a trial ended."""

    def waits(self, numbers: list[int]) -> None:
        """Tell that all that is left to do is done by other workers."""


def work(study: Study, do: Callable[[Trial], object], listener: Listener, pause: float = 5.0) -> None:
    """Take trials and do them until all are done, by this worker or by others.

    Waits for the trials of other workers, to go on with them should those die.

    Args:
        study: The trials.
        do: Does one, and closes it.
        listener: Is told.
        pause: Seconds between looks at what others do.

    Raises:
        UserError: All trials have failed, the last ones under this worker.
    """
    before = {row.number for row in study.rows() if row.state == "failed"}
    while True:
        ended = [row for row in study.rows() if row.state != "running"]
        # Those that had failed before it was started do not count: their cause may be mended.
        news = [row for row in ended if row.number not in before]
        if HOPELESS <= len(news) and len(ended) < study.total and all(row.state == "failed" for row in ended):
            raise UserError(
                f"the first {len(ended)} trials have failed, the last with: {news[-1].facts.get('reason')}; mend the "
                "cause and start anew in another --folder, or go on here with the rest, by the same command"
            )
        trial = study.take()
        if trial is not None:
            do(trial)
        elif running := study.running():
            listener.waits(running)
            time.sleep(pause)
        else:
            return


def train_one(study: Study, folder: Path, listener: Listener, trial: Trial) -> None:
    """Do one trial by training a network in a process of its own.

    Interrupted by Ctrl-C, it stops the process and leaves the trial to be gone on with.
    """
    process = TrialProcess(study.sweep, folder, trial)
    spent = sum(row.facts.get("seconds", 0.0) for row in study.rows() if row.number == trial.number)
    started = time.monotonic()
    listener.began(trial)
    try:
        process.start()
        stops_early = _watch(study, process, trial, listener)
    except BaseException:  # Ctrl-C above all
        if process.pid is not None:
            process.stop()
        study.give_up(trial, seconds=spent + time.monotonic() - started)
        raise
    if stops_early is not False:
        process.stop()

    values = process.measured()
    score = study.best(values) if values else None
    succeeded = process.wait(0) == 0 or process.was_done()
    outcome: Outcome = "stopped early" if stops_early else "finished" if succeeded and values else "failed"
    reason = ""
    if outcome == "failed":
        reason = f"it logged no {study.sweep.metric}" if succeeded else process.failure()
    seconds = spent + time.monotonic() - started
    facts = {"seconds": seconds, "run": str(process.run_folder or ""), "reason": reason, "log": str(process.log)}
    if stops_early is not None and study.finish(trial, outcome, score, **facts):
        listener.ended(trial, outcome, score, seconds, reason)
    else:
        listener.lost(trial)


def _watch(study: Study, process: TrialProcess, trial: Trial, listener: Listener) -> bool | None:
    """Watch a process; True if it should stop early, False when it has ended, None if it is another worker's now."""
    beaten = -BEAT_EVERY
    told = 0
    while True:
        code = process.wait(LOOK_EVERY)
        if time.monotonic() - beaten > BEAT_EVERY:
            beaten = time.monotonic()
            if not study.beat(trial, process.pid):
                return None
        values = process.measured()
        if len(values) > told:
            told = len(values)
            listener.measured(trial, values)
        # A trial that has ended by itself is finished, also if its last value is a poor one.
        stop = study.report(trial, values)
        if code is not None:
            return False
        if stop:
            return True
