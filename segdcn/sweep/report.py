"""What a local sweep comes to: a table, a picture, and the command line of the best trial."""

import csv
import json
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segdcn.sweep.command import as_flags
from segdcn.sweep.file import SweepFile
from segdcn.sweep.parameters import Choice, Parameter
from segdcn.sweep.progress import short
from segdcn.sweep.study import Row


def best_row(sweep: SweepFile, rows: list[Row]) -> Row | None:
    """Find the best of the finished trials."""
    finished = [row for row in rows if row.state == "finished" and row.score is not None]
    sign = 1 if sweep.maximize else -1
    return max(finished, key=lambda row: sign * (row.score or 0.0), default=None)


def summary(sweep: SweepFile, rows: list[Row]) -> dict[str, Any]:
    """Collect everything, for a JSON file."""
    best = best_row(sweep, rows)
    return {
        "sweep": sweep.name,
        "method": sweep.method,
        "metric": sweep.metric,
        "goal": "maximize" if sweep.maximize else "minimize",
        "trials": [
            {
                "trial": row.number,
                "state": row.state,
                "values": row.values,
                "score": row.score,
                "validations": row.validations,
                "seconds": row.facts.get("seconds"),
                "run": row.facts.get("run"),
                "reason": row.facts.get("reason"),
            }
            for row in rows
        ],
        "best": best.number if best else None,
        "command": as_flags(sweep.command, best.values) if best else None,
    }


def write(sweep: SweepFile, rows: list[Row], folder: Path) -> dict[str, Path]:
    """Write trials.csv and, where two trials can be compared, parallel.png; they replace earlier ones.

    Returns:
        What was written, by what it is.
    """
    written = {"table": folder / "trials.csv"}
    names = [parameter.name for parameter in sweep.parameters]
    with written["table"].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", *names, sweep.metric, "validations", "seconds", "run", "reason"])
        for row in rows:
            values = [json.dumps(row.values[name]) if name in row.values else "" for name in names]
            facts = [row.facts.get(name, "") for name in ("seconds", "run", "reason")]
            score = "" if row.score is None else row.score
            writer.writerow([row.number, row.state, *values, score, row.validations, *facts])
    scored = [row for row in rows if row.score is not None and row.state != "running"]
    if len(scored) > 1 and _varied(sweep):
        written["picture"] = folder / "parallel.png"
        picture(sweep, scored).save(written["picture"])
    return written


def picture(sweep: SweepFile, rows: list[Row]) -> Any:
    """Draw the trials that have a score as parallel coordinates."""
    # Imported here: matplotlib takes a second, and is needed at the end only.
    from segdcn.pictures.charts import Axis, parallel_coordinates

    best = best_row(sweep, rows)
    axes = []
    for parameter in _varied(sweep):
        values = [row.values[parameter.name] for row in rows]
        if isinstance(parameter.space, Choice):
            labels = _in_order(parameter.space.values)
            axes.append(Axis(parameter.name, [labels.index(json.dumps(value)) for value in values], labels))
        else:
            axes.append(Axis(parameter.name, values, log=parameter.space.log))
    return parallel_coordinates(
        f"{sweep.name}: {sweep.metric} of {len(rows)} trials",
        axes,
        Axis(sweep.metric, [row.score or 0.0 for row in rows]),
        stopped=[row.state != "finished" for row in rows],
        best=None if best is None else rows.index(best),
    )


def show(sweep: SweepFile, rows: list[Row], written: dict[str, Path], folder: Path, console: Console) -> None:
    """Print the table, the best first, where everything lies, and the best command line."""
    sign = -1 if sweep.maximize else 1
    table = Table(title=f"{sweep.name}, {sweep.method}")
    table.add_column("trial", justify="right")
    for parameter in _varied(sweep):
        table.add_column(parameter.name, justify="right")
    for heading in (sweep.metric, "validations", "time"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    for row in sorted(rows, key=lambda row: (row.score is None, sign * (row.score or 0.0))):
        cells = [json.dumps(short(row.values[p.name])) if p.name in row.values else "" for p in _varied(sweep)]
        seconds = row.facts.get("seconds")
        told = "" if seconds is None else str(timedelta(seconds=round(seconds)))
        score = "-" if row.score is None else f"{row.score:.4f}"
        state = f"failed: {row.facts.get('reason')}" if row.state == "failed" else row.state
        shown = [str(row.number), *cells, score, str(row.validations), told, state]
        table.add_row(*map(escape, shown))
    console.print(table)
    facts = {"folder": str(folder), **{name: str(path) for name, path in written.items()}}
    if any(folder.glob("runs/*/*/wandb/offline-run-*")):
        facts["W&B"] = f"to upload: wandb sync {shlex.quote(str(folder))}/runs/*/*/wandb/offline-run-*"
    best = best_row(sweep, rows)
    if best is None:
        facts["best"] = "none: no trial has finished"
    else:
        facts["best run"] = str(best.facts.get("run"))
        facts["best"] = as_flags(sweep.command, best.values)
    for name, value in facts.items():
        console.print(f"{name:<8}  {value}", markup=False, highlight=False, soft_wrap=True)


def _varied(sweep: SweepFile) -> list[Parameter]:
    return [parameter for parameter in sweep.parameters if not parameter.is_constant]


def _in_order(values: tuple[Any, ...]) -> list[str]:
    """Label the values of a choice, numbers in their order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        values = tuple(sorted(values))
    return list(dict.fromkeys(map(json.dumps, values)))
