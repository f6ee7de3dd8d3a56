"""`segdcn compare`: one recipe in several variants with several seeds each, and a report."""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segdcn.errors import Stopped, UserError, UserValueError
from segdcn.verbs.report_file import check_report_file, write_report


def compare(
    fit: list[str],
    vary: list[str] | None = None,
    seeds: int = 3,
    name: str | None = None,
    runs_dir: str = "runs",
    checkpoint: Literal["last", "best"] = "last",
    pictures: int = 4,
    report_only: bool = False,
    dry_run: bool = False,
    json: str | None = None,
) -> int:
    r"""Train one recipe in several variants, with several seeds each, and report how they differ.

    Files and flags are those of fit. --vary key=value,value says what differs; given more than once,
    all combinations are variants. The first variant is what the others are compared with. Runs with
    one seed start from the same weights and see the same data in the same order; fresh
    deformable layers change nothing, so this holds with and without them.

    Everything goes to <runs_dir>/compare/<name>: plan.json, one small JSON for each finished run, the
    runs, report.html (one page that needs nothing else) and report.md. The same command goes on
    after a stop or a crash, and does no run twice. A run that fails does not end the others; the
    exit code is then 1.

    Example:
        segdcn compare --config configs/base.yaml --data configs/data/shapes.yaml \
            --model configs/model/deeplabv3plus_r18_dcn.yaml --vary deform_layers=0,3 --seeds 3

    Args:
        fit: Files and flags of `segdcn fit`.
        vary: Key and values, as in deform_layers=0,3 or trainer.max_epochs=4,8; values are YAML. A key
            without a group is the model's or the data's.
        seeds: How many seeds: 0, 1, ... They are of weights, dropout, order and augmentation.
        name: Name of the comparison; null makes one from data, model and what is varied.
        runs_dir: Folder of all runs.
        checkpoint: Which weights of a run are measured. The best ones were chosen on the validation set.
        pictures: How many validation images to show, those on which the variants differ most.
        report_only: Write the report of the runs that are finished, and run nothing.
        dry_run: Print the commands of the runs, and do nothing.
        json: Also write the figures to this file.

    Raises:
        UserValueError: Something does not fit, or the name is of another comparison.
        MissingFileError: A file, the data or a comparison to report on is not there.
    """
    if seeds < 1 or pictures < 0:
        raise UserValueError(f"seeds is {seeds} and pictures {pictures}; at least 1 seed and 0 pictures are needed")
    if json is not None:
        check_report_file(json)
    # Imported here: torch and Lightning take seconds, which a wrong number need not cost.
    from segdcn.compare.plan import read_plan
    from segdcn.run import check_name

    if name is not None:
        check_name(name)
    parent = Path(runs_dir).absolute() / "compare"
    console = Console(soft_wrap=True, highlight=False)
    if report_only and name is not None and not vary:
        plan = read_plan(parent / name)
    else:
        plan = _plan(fit, vary or [], seeds, name, checkpoint)
    folder = parent / plan.name
    if dry_run:
        return _show_commands(folder, plan, console)
    failed = {} if report_only else _run(folder, plan, console)
    return _report(folder, plan, failed, pictures, json, console)


def _plan(fit: Sequence[str], vary: Sequence[str], seeds: int, name: str | None, checkpoint: str) -> Any:
    """Parse, check and build every variant, which refuses what cannot work before anything runs."""
    from segdcn.compare.plan import Plan, flat
    from segdcn.compare.variants import check_fit_arguments, variants
    from segdcn.fingerprint import fingerprint
    from segdcn.training import rehearse

    check_fit_arguments(fit)
    listed = variants(vary)
    settings: dict[str, Mapping[str, Any]] = {}
    starts: dict[str, str] = {}
    shared: list[str] = []
    for variant in listed:
        rehearsed = rehearse([*fit, *variant.flags()])
        settings[variant.name] = flat(rehearsed.settings)
        weights = rehearsed.task.network.state_dict()
        shared = shared or list(weights)
        starts[variant.name] = fingerprint({key: weights[key] for key in shared if key in weights})
        if name is None:
            data = type(rehearsed.data).__name__.lower()
            model = "-".join(rehearsed.settings["model"][key] for key in ("architecture", "encoder"))
            name = f"{data}-{model}-{'+'.join(key.rpartition('.')[2] for key in variant.values)}"
    assert name is not None
    return Plan(name, list(fit), listed, list(range(seeds)), checkpoint, settings, starts)


def _show_commands(folder: Path, plan: Any, console: Console) -> int:
    from segdcn.compare.job import fit_command

    for job in plan.jobs():
        words = fit_command(folder, plan, job)[len([sys.executable, "-m", "segdcn"]) :]
        console.print(f"{job.name}\n  segdcn {shlex.join(words)}", markup=False)
    return 0


def _run(folder: Path, plan: Any, console: Console) -> dict[str, str]:
    from segdcn.compare.plan import keep_plan
    from segdcn.compare.work import only_one, work

    advice = f"; go on with the same command (the comparison is in {folder})"
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with only_one(folder) as lock:
            keep_plan(folder, plan)
            return work(folder, plan, console, lock)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None
    except Stopped as stopped:
        stopped.advice = advice
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(
    folder: Path, plan: Any, failed: Mapping[str, str], pictures: int, json: str | None, console: Console
) -> int:
    """Write the report of what is finished, print its first table, and give the exit code."""
    from segdcn.compare import examples, pages, report, tables
    from segdcn.compare.job import flags
    from segdcn.compare.record import read_records
    from segdcn.training import rehearse

    records = read_records(folder, plan)
    if not records:
        reasons = f", the first with: {next(iter(failed.values()))}" if failed else ""
        raise UserError(f"no run of {folder} is finished{reasons}")
    shown: list[Any] = []
    palette: Sequence[Sequence[int]] = []
    names: Sequence[str] = []
    if pictures:
        try:
            data = rehearse([*plan.fit, *flags(next(plan.jobs()))]).data
            palette, names = data.palette, data.class_names
            shown = examples.find(folder, plan, records, data, pictures)
        except UserError as error:
            console.print(f"segdcn: the report has no example pictures: {error}", markup=False)
    sections = report.sections(plan, records, failed, shown, palette, names)
    written = pages.write(folder, f"Comparison: {plan.name}", sections)
    scores = tables.Scores(plan, records)
    console.print(_table("mIoU in %", tables.miou_table(scores)))
    if (differences := tables.difference_table(scores)).rows:
        console.print(_table("paired differences", differences))
    for what, path in written.items():
        console.print(f"{what:<8}  {path}", markup=False)
    for run, reason in failed.items():
        console.print(f"failed    {run}: {reason}", markup=False)
    if json is not None:
        figures = {"plan": plan.as_json(), "runs": [asdict(record) for record in records], "failed": failed}
        write_report(json, figures)
    return int(bool(failed))


def _table(title: str, content: Any) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    for number, heading in enumerate(content.head):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in content.rows:
        table.add_row(*map(escape, row))
    return table


def _stop(signum: int, frame: object) -> None:
    """Stop as Ctrl-C does, on the signal that batch systems send before they kill."""
    raise Stopped(signum)
