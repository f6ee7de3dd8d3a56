"""`segdcn data stats`: colours, class frequencies and class weights of a data set."""

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from segdcn.data.base import SegmentationData
from segdcn.data.describe import load_data
from segdcn.data.stats import FORMULA, Stats, measure
from segdcn.verbs.report_file import check_report_file, write_report


def data_stats(
    data: str,
    root: str | None = None,
    split: str | None = None,
    num_workers: int | None = None,
    settings: dict[str, Any] | None = None,
    json: str | None = None,
) -> None:
    """Measure mean and standard deviation, how frequent the classes are, and weights that balance them.

    Class weights by median frequency balancing (Eigen and Fergus 2015): the weight of c is
    median(f) / f(c), where f(c) is the number of pixels of c divided by the number of pixels with
    a class in the images that hold c. A class that never occurs gets 1. At the end come the lines
    to paste into the model's and the data's YAML.

    Example:
        segdcn data stats configs/data/voc.yaml --root VOCdevkit/VOC2012 --num_workers 4

    Args:
        data: YAML of the data set, such as configs/data/voc.yaml.
        root: Folder of the data set, if it is not the YAML's.
        split: Split to read; null reads the one for training.
        num_workers: Processes that read; 0 reads in one, null is the YAML's number. The numbers stay the same.
        settings: Settings of the data set that win over the YAML's, such as --settings.train_split trainval.
        json: Also write the numbers to this file.

    Raises:
        MissingFileError: The YAML, the root or a file is missing.
        InvalidDataError: A file is damaged; `segdcn data check` lists all that are.
    """
    if json is not None:
        check_report_file(json)
    described = load_data(data, settings, root=root, num_workers=num_workers)
    split = described.train_split if split is None else split
    count = len(described.samples(split))
    console = Console()
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("reading", total=count)
        stats = measure(described, split, advance=lambda: bar.advance(task))
    result = summary(described, split, stats)
    _print(console, result)
    if json is not None:
        write_report(json, result)


def summary(data: SegmentationData, split: str, stats: Stats) -> dict[str, Any]:
    """Put the numbers into plain lists, rounded as far as they mean something."""
    total = int(stats.pixels.sum()) + stats.ignored
    columns = (stats.pixels, stats.images, stats.frequencies, stats.weights)
    classes = {
        name: {
            "pixels": int(pixels),
            "share": int(pixels) / max(total, 1),
            "images": int(images),
            "frequency": float(frequency),
            "weight": float(f"{weight:.4g}"),
        }
        for name, pixels, images, frequency, weight in zip(data.class_names, *columns, strict=True)
    }
    return {
        "root": str(data.root),
        "split": split,
        "images": stats.num_images,
        "mean": [round(value, 4) for value in stats.mean.tolist()],
        "std": [round(value, 4) for value in stats.std.tolist()],
        "ignored_share": stats.ignored / max(total, 1),
        "classes": classes,
        "class_weights": [members["weight"] for members in classes.values()],
        "class_weights_formula": FORMULA,
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"{result['images']} images of {result['split']}")
    for name in ("class", "of all pixels", "images", "frequency", "weight"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, numbers in result["classes"].items():
        frequency = f"{numbers['frequency']:.4f}" if numbers["pixels"] else "-"
        table.add_row(name, f"{numbers['share']:.2%}", str(numbers["images"]), frequency, f"{numbers['weight']:.4g}")
    table.add_section()
    table.add_row("(ignored)", f"{result['ignored_share']:.2%}")
    console.print(table)

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    line(f"weights: {FORMULA}")
    line("for the model's YAML:")
    line(f"  class_weights: {result['class_weights']}")
    line("for the data's YAML (weights from elsewhere expect the mean and std they were trained with):")
    line(f"  mean: {result['mean']}")
    line(f"  std: {result['std']}")
