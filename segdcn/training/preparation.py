"""What data, network and trainer are told beyond their settings."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning import Callback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.data import SegmentationData
from segdcn.data.class_weights import balanced_weights
from segdcn.loggers import is_first_process
from segdcn.task import SegmentationTask
from segdcn.training.messages import say


def tell_data(data: SegmentationData, verb: str, eval_detail: str, labels_needed: bool) -> None:
    """Spare the data instance maps that nobody looks at, and a submission the labels.

    Args:
        data: Not set up yet.
        verb: fit, validate or test.
        eval_detail: The model's setting of that name.
        labels_needed: Refuse a split that has none.
    """
    data.with_instances = eval_detail == "always" or (eval_detail == "outside_fit" and verb != "fit")
    data.labels_needed = labels_needed


def balance_classes(task: SegmentationTask, data: SegmentationData) -> None:
    """Compute class weights from the training labels, give them to the task and print them."""
    columns = (TextColumn("counting pixels"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True, disable=not is_first_process()) as bar:
        labels = bar.add_task("", total=len(data.train_dataset()))
        weights = balanced_weights(data, progress=lambda: bar.advance(labels))
    task.set_class_weights(weights)
    listed = ", ".join(f"{name} {weight:g}" for name, weight in zip(data.class_names, weights, strict=True))
    say(f"class weights: {listed}")


def add_to_trainer(settings: dict[str, Any], callbacks: Sequence[Callback]) -> None:
    """Add to the trainer's settings what is ours, behind what the user gave."""
    settings["plugins"] = [*_listed(settings["plugins"]), SafeCheckpointIO()]
    settings["callbacks"] = [*_listed(settings["callbacks"]), *callbacks]
    settings["use_distributed_sampler"] = False  # the data divides its samples itself, exactly


def _listed(given: Any) -> list[Any]:
    """Give one, several or none as a list."""
    return given if isinstance(given, list) else [given] if given else []
