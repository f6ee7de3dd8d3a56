"""`segdcn compare`: one recipe in several variants with several seeds each, and a report."""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from segdcn.errors import Stopped, UserError, UserValueError
from segdcn.verbs.report_file import check_report_file, write_report

if TYPE_CHECKING:
    from segdcn.compare.plan import Plan
    from segdcn.compare.record import Record
    from segdcn.compare.tables import Table as Content

WIDEST = 1000  # characters that a line of a table may take in a file
SEEDS: int = 3
CHECKPOINT: Literal["last", "best"] = "last"


def compare(
    fit: list[str],
    vary: list[str] | None = None,
    seeds: int = SEEDS,
    name: str | None = None,
    runs_dir: str = "runs",
    checkpoint: Literal["last", "best"] = CHECKPOINT,
    examples: int = 4,
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
    runs, report.html (one page that needs nothing else) and report.md, which are written after each
    seed. The same command goes on after a stop or a crash, and does no run twice; with more seeds, or
    more values behind the first, it adds the runs that are missing. A run that fails does not end the
    others; the exit code is then 1.

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
        examples: How many validation images to show, those on which the variants differ most.
        report_only: Write the report of the runs that are finished, and run nothing; --name is enough.
        dry_run: Print the commands of the runs, and do nothing.
        json: Also write the figures to this file.

    Raises:
        UserValueError: Something does not fit, or the name is of another comparison.
        MissingFileError: A file, the data or a comparison to report on is not there.
    """
    if seeds < 1 or examples < 0:
        raise UserValueError(f"seeds is {seeds} and examples {examples}; at least 1 seed and 0 examples are needed")
    if json is not None:
        check_report_file(json)
    # Imported here: torch and Lightning take seconds, which a wrong number need not cost.
    from segdcn.compare.making import make_plan
    from segdcn.compare.work import read_failures
    from segdcn.run import check_name

    if name is not None:
        check_name(name)
    parent = Path(runs_dir).absolute() / "compare"
    console = Console(soft_wrap=True, highlight=False)
    if report_only:
        plan = _begun(parent, fit, vary or [], seeds, name, checkpoint)
    else:
        plan = make_plan(fit, vary or [], seeds, name, checkpoint)
    folder = parent / plan.name
    if dry_run:
        return _show_commands(folder, plan, console)
    failed = read_failures(folder, plan) if report_only else _run(folder, plan, examples, console)
    return _report(folder, plan, failed, examples, json, console)


def _begun(
    parent: Path, fit: Sequence[str], vary: Sequence[str], seeds: int, name: str | None, checkpoint: str
) -> "Plan":
    """Read the plan of a comparison that was begun; what is said beside its name has to agree with it."""
    from segdcn.compare.making import make_plan
    from segdcn.compare.plan import difference_from, read_plan

    if name is None and not vary:
        raise UserValueError("--report_only needs the --name of a comparison, or all that it was begun with")
    if not vary:
        there = read_plan(parent / str(name))
        if fit:
            raise UserValueError(f"{fit[0]} has no place beside --report_only and --name, which say it all")
        for what, asked, default, begun in (
            ("seeds", seeds, SEEDS, len(there.seeds)),
            ("checkpoint", checkpoint, CHECKPOINT, there.checkpoint),
        ):
            if asked not in (default, begun):
                raise UserValueError(f"{what} is {asked}, but {name} was begun with {begun}; leave out --{what}")
        return there
    here = make_plan(fit, vary, seeds, name, checkpoint)
    there = read_plan(parent / here.name)
    if difference := difference_from(there, here) or difference_from(here, there):
        raise UserValueError(f"{parent / here.name} holds another comparison: {difference}")
    return there


def _show_commands(folder: Path, plan: "Plan", console: Console) -> int:
    from segdcn.compare.job import fit_command

    for job in plan.jobs():
        words = fit_command(folder, plan, job)[len([sys.executable, "-m", "segdcn"]) :]
        console.print(f"{job.name}\n  segdcn {shlex.join(words)}", markup=False)
    return 0


def _run(folder: Path, plan: "Plan", examples: int, console: Console) -> dict[str, str]:
    from segdcn.compare.plan import keep_plan
    from segdcn.compare.record import read_records
    from segdcn.compare.work import only_one, read_failures, work

    def interim() -> None:
        if records := read_records(folder, plan):
            _write(folder, plan, records, read_failures(folder, plan), examples)

    advice = f"; go on with the same command (the comparison is in {folder})"
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with only_one(folder) as lock:
            keep_plan(folder, plan)
            return work(folder, plan, console, lock, interim)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(advice) from None
    except Stopped as stopped:
        stopped.advice = advice
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _report(
    folder: Path, plan: "Plan", failed: Mapping[str, str], examples: int, json: str | None, console: Console
) -> int:
    """Write the report of what is finished, print its first table, and give the exit code."""
    from segdcn.compare import tables
    from segdcn.compare.record import read_records

    records = read_records(folder, plan)
    if not records:
        reasons = f", the first with: {next(iter(failed.values()))}" if failed else ""
        raise UserError(f"no run of {folder} is finished{reasons}")
    written, missing = _write(folder, plan, records, failed, examples)
    if missing:
        console.print(f"segdcn: the report has no example pictures: {missing}", markup=False)
    scores = tables.Scores(plan, records)
    _show("mIoU in %", tables.miou_table(scores), console)
    if (differences := tables.difference_table(scores)).rows:
        _show("paired differences", differences, console)
    for what, path in written.items():
        console.print(f"{what:<8}  {path}", markup=False)
    for run, reason in failed.items():
        console.print(f"failed    {run}: {reason}", markup=False)
    if json is not None:
        figures = {"plan": plan.as_json(), "runs": [asdict(record) for record in records], "failed": dict(failed)}
        write_report(json, figures)
    return int(bool(failed))


def _write(
    folder: Path, plan: "Plan", records: "list[Record]", failed: Mapping[str, str], count: int
) -> tuple[dict[str, Path], str]:
    """Write the report; return its files, and why it has no examples if it has none."""
    from segdcn.compare import examples, pages, report
    from segdcn.compare.job import flags
    from segdcn.training import rehearse

    shown: list[examples.Example] = []
    palette: Sequence[Sequence[int]] = []
    names: Sequence[str] = []
    missing = ""
    if count:
        try:
            data = rehearse([*plan.fit, *flags(next(plan.jobs()))]).data
            palette, names = data.palette, data.class_names
            shown = examples.find(folder, plan, records, data, count)
        except UserError as error:
            missing = str(error)
    sections = report.sections(plan, records, failed, shown, palette, names)
    return pages.write(folder, f"Comparison: {plan.name}", sections), missing


def _show(title: str, content: "Content", console: Console) -> None:
    """Print a table whole, or without its seeds where the terminal is too narrow for them."""
    table = _table(title, content, len(content.head))
    wide = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    if not console.is_terminal:
        console.width = max(console.width, wide)
    elif wide > console.width:
        table = _table(title, content, sum(not heading.startswith("seed ") for heading in content.head))
    console.print(table)


def _table(title: str, content: "Content", columns: int) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    for number, heading in enumerate(content.head[:columns]):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in content.rows:
        table.add_row(*map(escape, row[:columns]))
    return table


def _stop(signum: int, frame: object) -> None:
    """Stop as Ctrl-C does, on the signal that batch systems send before they kill."""
    raise Stopped(signum)
