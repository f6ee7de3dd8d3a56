"""One run of a comparison: train, or go on training, in a process; measure in another; write the record."""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from segdcn.compare.plan import SEED_KEYS, Job, Plan
from segdcn.compare.record import Record, write_record
from segdcn.errors import UserError
from segdcn.run import find_checkpoint
from segdcn.training_process import TrainingProcess, can_go_on, group_environment, newest_run

TAIL = 4096  # bytes at the end of a log in which its last word on an epoch is looked for
LOOK_EVERY = 1.0  # seconds between looks at a process and its numbers
PREDICTIONS = 200  # most validation images among which examples are looked for

COST = "segdcn.callbacks.step_cost.StepCost"
EVIDENCE = "segdcn.callbacks.evidence.Evidence"


class JobFailed(UserError):
    """A run ended without a result; the message says why and where its log is."""


def do(folder: Path, plan: Plan, job: Job, told: Callable[[str], object], held: Sequence[int] = ()) -> Record:
    """Train and measure one run, going on with what an earlier start saved.

    Interrupted, it stops the process, which saves where it is.

    Args:
        folder: The comparison's.
        plan: What is compared.
        job: The run.
        told: Called with what happens, now and then.
        held: Descriptors of locks that the processes hold too, should this one die before them.

    Raises:
        JobFailed: A process failed.
    """
    runs, trained = folder / "runs", folder / "logs" / f"{job.name}.trained"
    log = _log(folder, job)
    if not (trained.exists() and can_go_on(runs / job.name)):
        _process(folder, plan, job, fit_command(folder, plan, job), held, lambda: told(course(log)))
        trained.touch()  # a run that stopped early has epochs left, and would go on
    try:
        checkpoint = find_checkpoint(runs, job.name, plan.checkpoint)
        _process(folder, plan, job, validate_command(folder, plan, job, checkpoint), held, lambda: told("measuring"))
        validated = newest_run(folder / "validations" / job.name)
        assert validated is not None
        if not (validated / "results.json").is_file():
            raise JobFailed("nothing was measured: no pixel of the validation set has a label")
        return write_record(folder, plan, job, checkpoint, validated)
    except JobFailed:
        raise
    except UserError as error:
        raise JobFailed(str(error)) from error


def fit_command(folder: Path, plan: Plan, job: Job) -> list[str]:
    """Give the command that trains a run, or goes on with it."""
    words = _command("fit", plan, job, folder / "runs")
    if can_go_on(folder / "runs" / job.name):
        words += ["--ckpt_path=last"]
    return [*words, f"--trainer.callbacks+={COST}"]


def validate_command(folder: Path, plan: Plan, job: Job, checkpoint: Path) -> list[str]:
    """Give the command that measures a run; predictions are kept of the first seed."""
    predictions = PREDICTIONS if job.seed == plan.seeds[0] else 0
    return [
        *_command("validate", plan, job, folder / "validations"),
        *(f"--ckpt_path={checkpoint}", "--wandb=off", "--trainer.devices=1"),  # one process sees every image
        *(f"--trainer.callbacks+={EVIDENCE}", f"--trainer.callbacks.predictions={predictions}"),
    ]


def flags(job: Job) -> list[str]:
    """Give the flags of `fit` that make a run what it is."""
    return [*job.variant.flags(), *(f"--{key}={job.seed}" for key in SEED_KEYS)]


def _command(verb: str, plan: Plan, job: Job, runs: Path) -> list[str]:
    program = [sys.executable, "-m", "segdcn", verb]  # this one, whatever the PATH holds
    return [*program, *plan.fit, *flags(job), f"--name={job.name}", f"--runs_dir={runs}"]


def _process(
    folder: Path, plan: Plan, job: Job, command: Sequence[str], held: Sequence[int], look: Callable[[], object]
) -> None:
    process = TrainingProcess(_log(folder, job))
    process.run(command, group_environment(plan.name), held)
    try:
        while (code := process.wait(LOOK_EVERY)) is None:
            look()
    except BaseException:  # Ctrl-C above all
        process.stop()
        raise
    if code != 0 and not process.was_done():
        raise JobFailed(f"{process.failure()} (see {process.log})")


def _log(folder: Path, job: Job) -> Path:
    return folder / "logs" / f"{job.name}.log"


def course(log: Path) -> str:
    """Say how far a run is, as `fit` last said it."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "begins"
    return next((line for line in reversed(lines) if re.match(r"epoch \d+/\d+ ", line)), "begins")
