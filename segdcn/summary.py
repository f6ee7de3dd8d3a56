"""What a finished run says: IoU of every class, and where everything lies."""

from rich.console import Console
from rich.table import Table

from segdcn.metrics import ConfusionMatrix


def iou_table(title: str, class_names: list[str], confusion: ConfusionMatrix) -> Table:
    """Tabulate IoU and share of the labelled pixels by class, and the mean.

    A class in neither labels nor predictions shows a dash; the mean leaves it out and the
    caption says so.
    """
    iou = confusion.iou()
    shares = confusion.matrix.sum(1).double() / confusion.matrix.sum()
    absent = int(iou.isnan().sum())
    table = Table(title=title, show_footer=True)
    table.add_column("class", footer=f"mean of {len(iou) - absent}")
    table.add_column("IoU", justify="right", footer=f"{confusion.mean_iou().item():.4f}")
    table.add_column("of all pixels", justify="right", footer=f"{confusion.pixel_accuracy().item():.2%} right")
    for name, value, share in zip(class_names, iou.tolist(), shares.tolist(), strict=True):
        table.add_row(name, "-" if value != value else f"{value:.4f}", f"{share:.2%}")
    if absent:
        table.caption = f"- : in neither labels nor predictions; {absent} of {len(iou)} left out of the mean"
    return table


def print_summary(table: Table | None, facts: dict[str, str]) -> None:
    """Print the table, then one line per fact."""
    # soft_wrap keeps a path on one line where it is longer than the terminal is wide.
    console = Console(soft_wrap=True, highlight=False)
    if table is not None:
        console.print(table)
    width = max(len(name) for name in facts) if facts else 0
    for name, value in facts.items():
        console.print(f"{name:<{width}}  {value}", markup=False)
