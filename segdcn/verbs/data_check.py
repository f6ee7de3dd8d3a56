"""`segdcn data check`: everything that is wrong with a data set."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from segdcn.data.base import SegmentationData
from segdcn.data.check import KINDS, Report, check, default_splits
from segdcn.data.describe import load_data
from segdcn.errors import UserValueError
from segdcn.verbs.report_file import check_report_file, write_report


def data_check(
    data: str,
    root: str | None = None,
    splits: list[str] | None = None,
    num_workers: int | None = None,
    show: int = 10,
    settings: dict[str, Any] | None = None,
    json: str | None = None,
) -> int:
    """Read every file of a data set and list what is wrong with it.

    Found are splits that cannot be listed, missing, empty and damaged files, labels of another size
    than their image, values and colours that are no class, palettes that contradict the ids, label
    maps in which everything is ignored, images that are their own label map or are listed twice,
    and images that two splits share, also under another name. Then come the shares of the classes
    in each split. The exit code is 1 if anything is wrong, 0 if nothing is.

    Example:
        segdcn data check configs/data/voc.yaml --root VOCdevkit/VOC2012 --num_workers 4

    Args:
        data: YAML of the data set, such as configs/data/voc.yaml.
        root: Folder of the data set, if it is not the YAML's.
        splits: Splits to read, such as [train,val]; null reads those for training, validation and
            test. No two of them should share an image.
        num_workers: Processes that read; 0 reads in one, null is the YAML's number.
        show: How many problems of each kind to print; the file of --json has all.
        settings: Settings of the data set that win over the YAML's, such as --settings.val_split test.
        json: Also write problems and shares to this file.

    Returns:
        1 if anything is wrong.

    Raises:
        MissingFileError: The YAML or the root is missing.
        UserValueError: A setting is out of its range.
    """
    if json is not None:
        check_report_file(json)
    if show < 0:
        raise UserValueError(f"show is {show}; expected 0 or more")
    if splits == []:
        raise UserValueError("splits names none; expected some, such as [train,val], or null")
    described = load_data(data, settings, root=root, num_workers=num_workers)
    described.check_root()
    console = Console()
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading")
        report = check(
            described,
            splits or default_splits(described),
            start=lambda total: bar.update(task, total=total),
            advance=lambda: bar.advance(task),
        )
    if report.num_samples:
        console.print(_shares_table(described, report))
    _print_problems(console, report, show)
    if json is not None:
        write_report(json, summary(described, report))
    return 1 if report.problems else 0


def summary(data: SegmentationData, report: Report) -> dict[str, Any]:
    """Put a report into plain numbers and strings."""
    splits = {}
    for split, pixels in report.pixels.items():
        shares = pixels / max(int(pixels.sum()), 1)
        splits[split] = {
            "samples": report.num_samples[split],
            "pixel_shares": dict(zip(data.class_names, shares[:-1].tolist(), strict=True)),
            "ignored_share": float(shares[-1]),
        }
    counts = {kind: sum(problem.kind == kind for problem in report.problems) for kind in KINDS}
    return {
        "root": str(data.root),
        "splits": splits,
        "num_problems": len(report.problems),
        "counts": counts,
        "problems": [asdict(problem) for problem in report.problems],
    }


def _shares_table(data: SegmentationData, report: Report) -> Table:
    table = Table(title="share of each class, of all pixels")
    table.add_column("class")
    for split, count in report.num_samples.items():
        table.add_column(f"{split} ({count} images)", justify="right")
    shares = {split: pixels / max(int(pixels.sum()), 1) for split, pixels in report.pixels.items()}
    for index, name in enumerate([*data.class_names, "(ignored)"]):
        if index == data.num_classes:
            table.add_section()
        table.add_row(name, *(f"{share[index]:.2%}" if share[index] else "-" for share in shares.values()))
    return table


def _print_problems(console: Console, report: Report, show: int) -> None:
    # Paths are not to be wrapped, coloured, or read as markup: they are meant to be copied.
    def line(text: str) -> None:
        # Names of files may be no text in any encoding.
        text = text.encode(errors="backslashreplace").decode()
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    for kind, heading in KINDS.items():
        messages = [problem.message for problem in report.problems if problem.kind == kind]
        if not messages:
            continue
        line(f"{heading}: {len(messages)}")
        for message in messages[:show]:
            line(f"  {message}")
        if len(messages) > show:
            line(f"  and {len(messages) - show} more")
    images = sum(report.num_samples.values())
    total = len(report.problems)
    line(f"{total or 'no'} problem{'' if total == 1 else 's'} in {images} images of {len(report.num_samples)} splits")
