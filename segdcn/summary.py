"""What a finished run says: IoU of every class and size, and where everything lies."""

from rich.console import Console, RenderableType
from rich.table import Table

from segdcn.metrics import Evaluation
from segdcn.object_sizes import LIMITS, NAMES


def iou_table(title: str, class_names: list[str], evaluation: Evaluation) -> Table:
    """Tabulate IoU, boundary IoU if it was measured, and share of the labelled pixels by class, and the mean.

    A class in neither labels nor predictions shows a dash; the mean leaves it out and the
    caption says so.
    """
    confusion, boundary = evaluation.confusion, evaluation.boundary.iou()
    iou = confusion.iou()
    shares = confusion.pixels().double() / confusion.pixels().sum()
    absent = int(iou.isnan().sum())
    table = Table(title=title, show_footer=True)
    table.add_column("class", footer=f"mean of {len(iou) - absent}")
    table.add_column("IoU", justify="right", footer=told(confusion.mean_iou().item()))
    if evaluation.in_detail:
        table.add_column("boundary", justify="right", footer=told(boundary.nanmean().item()))
    table.add_column("of all pixels", justify="right", footer=f"{confusion.pixel_accuracy().item():.2%} right")
    for name, value, at_boundary, share in zip(
        class_names, iou.tolist(), boundary.tolist(), shares.tolist(), strict=True
    ):
        detail = [told(at_boundary)] if evaluation.in_detail else []
        table.add_row(name, told(value), *detail, f"{share:.2%}")
    if absent:
        table.caption = f"- : in neither labels nor predictions; {absent} of {len(iou)} left out of the mean"
    return table


def size_table(evaluation: Evaluation) -> Table:
    """Tabulate what `ObjectSizes` measured, and say how well calibrated the network is."""
    objects = evaluation.objects
    areas = (f"below {LIMITS[0]}", f"below {LIMITS[1]}", f"from {LIMITS[1]} on")
    table = Table(title="by size of objects, mean over classes")
    for heading in ("size", "pixels", "objects", "IoU", "recall"):
        table.add_column(heading, justify="left" if heading == "size" else "right")
    counts, iou, recall = objects.objects.sum(0), objects.iou().nanmean(0), objects.recall().nanmean(0)
    for size, area, count, value, found in zip(
        NAMES, areas, counts.tolist(), iou.tolist(), recall.tolist(), strict=True
    ):
        table.add_row(size, area, str(count), told(value), told(found))
    error = evaluation.calibration.error().item()
    if error == error:
        table.caption = f"expected calibration error {error:.4f}"
    return table


def told(value: float | None) -> str:
    """Write a measure; a dash where it is not defined."""
    return "-" if value is None or value != value else f"{value:.4f}"


def print_summary(table: RenderableType | None, facts: dict[str, str]) -> None:
    """Print the table, then one line per fact."""
    # soft_wrap keeps a path on one line where it is longer than the terminal is wide.
    console = Console(soft_wrap=True, highlight=False)
    if table is not None:
        console.print(table)
    width = max(len(name) for name in facts) if facts else 0
    for name, value in facts.items():
        console.print(f"{name:<{width}}  {value}", markup=False)
