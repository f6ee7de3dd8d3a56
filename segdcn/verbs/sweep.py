"""`segdcn sweep`: a W&B sweep file on W&B, or on machines without a server."""

import json as json_module
import shlex
import signal
from functools import partial
from pathlib import Path

from rich.console import Console

from segdcn.errors import Stopped, UserError, UserValueError
from segdcn.verbs.report_file import check_report_file, write_report


def sweep(
    file: str,
    local: bool = False,
    count: int | None = None,
    folder: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
    json: str | None = None,
) -> int:
    """Train with many settings, as a W&B sweep file says.

    On Weights & Biases the file is registered and an agent runs its trials; `wandb sweep` and
    `wandb agent` do the same. With --local no server is needed: the trials are drawn by Optuna
    (pip install optuna) and each is an offline W&B run in the sweep's group.

    A local sweep lives in a folder. The same command goes on with it after a stop or a crash, and
    run again meanwhile, also on another host that sees the folder, it shares the work: on a machine
    with two GPUs once with CUDA_VISIBLE_DEVICES=0 and once with 1. The exit code is 1 if no trial
    has finished.

    Example:
        segdcn sweep configs/sweep/deform_layers.yaml --local

    Args:
        file: Sweep file; configs/sweep has some.
        local: Run without a server.
        count: Trials in all for a local sweep, by all workers together; on W&B those of this agent.
            Random and Bayesian sweeps have no end without it.
        folder: Folder of a local sweep; null is sweeps/<name of the sweep>.
        seed: Seed of what a local sweep draws.
        dry_run: Print the commands that would run, and do nothing.
        json: Also write the results of a local sweep to this file.

    Raises:
        MissingFileError: There is no such file.
        UserValueError: Something in the file is wrong, or no local sweep can do it.
    """
    path = Path(file)
    if count is not None and count < 1:
        raise UserValueError(f"count is {count}; it must be 1 or more")
    if not local:
        return _on_wandb(path, count, dry_run, {"folder": folder, "seed": seed or None, "json": json})
    if json is not None:
        check_report_file(json)
    return _local(path, count, None if folder is None else Path(folder), seed, dry_run, json)


def _on_wandb(path: Path, count: int | None, dry_run: bool, local_only: dict[str, str | int | None]) -> int:
    for name, value in local_only.items():
        if value is not None:
            raise UserValueError(f"--{name} is for local sweeps; add --local")
    from segdcn.sweep import server
    from segdcn.sweep.file import read_yaml

    config = read_yaml(path)
    console = Console()
    if dry_run:
        console.print(server.described(path, config), highlight=False, soft_wrap=True)
        return 0
    return server.run_agent(server.register(config), count, console)


def _local(path: Path, count: int | None, folder: Path | None, seed: int, dry_run: bool, json: str | None) -> int:
    from segdcn.sweep.file import read_sweep

    read = read_sweep(path)
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("a local sweep needs Optuna: pip install optuna") from error
    from segdcn.sweep import report
    from segdcn.sweep.progress import Shown
    from segdcn.sweep.study import Study
    from segdcn.sweep.trial import TrialProcess
    from segdcn.sweep.worker import train_one, work

    console = Console()
    folder = (folder or Path("sweeps") / read.name).absolute()
    if dry_run:
        preview = Study(read, None, count, seed)
        while (trial := preview.preview()) is not None:
            words = shlex.join(TrialProcess(read, folder, trial).command())
            console.print(
                f"trial {trial.number}  {json_module.dumps(trial.values)}\n  {words}",
                markup=False,
                soft_wrap=True,
                highlight=False,
            )
        return 0

    study = Study(read, folder, count, seed)
    advice = f"; go on with the same command (the sweep is in {folder})"
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with Shown(study, console) as shown:
            work(study, partial(train_one, study, folder, shown), shown)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None
    except Stopped as stopped:
        stopped.advice = advice
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    rows = study.rows()
    report.show(read, rows, report.write(read, rows, folder), folder, console)
    if json is not None:
        write_report(json, report.summary(read, rows))
    return int(report.best_row(read, rows) is None)


def _stop(signum: int, frame: object) -> None:
    """Stop as Ctrl-C does, on the signal that batch systems send before they kill."""
    raise Stopped(signum)
