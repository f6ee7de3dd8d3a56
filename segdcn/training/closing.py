"""What is said and sent when a verb has done its work: the table, where everything lies, W&B's copy."""

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger
from rich.console import Group

from segdcn.callbacks.checkpoints import BestCheckpoint
from segdcn.callbacks.cost import Cost
from segdcn.callbacks.results import Results
from segdcn.loggers import wandb_log
from segdcn.run import HASH, Run, read_checkpoint
from segdcn.summary import iou_table, print_summary, size_table
from segdcn.task import SegmentationTask
from segdcn.training.messages import say


def send_checkpoint(word: str | None, run: Run | None, loggers: Sequence[Logger]) -> None:
    """Give W&B the checkpoint that was asked for: best, last or none."""
    log = wandb_log(loggers)
    if word is None or log is None or run is None:
        return
    path = run.checkpoints / f"{word}.ckpt"
    if path.is_file():
        saved = read_checkpoint(path)
        try:
            log.send_checkpoint(path, word, {"step": saved["global_step"], "weights_sha256": saved.get(HASH)})
        except OSError as error:  # training is done and saved, whatever becomes of the copy
            say(f"warning: W&B does not get {path}: its copy could not be written ({error.strerror})")


def summarise(split: str, title: str, trainer: Trainer, task: SegmentationTask, places: dict[str, str]) -> None:
    """Print the tables of what was measured, if anything was, and below them where everything lies.

    Args:
        split: `val` or `test`, as measures are named.
        title: What the table is of.
        trainer: What measured.
        task: What was measured.
        places: From `places_of`.
    """
    facts = {}
    measured = f"{split}/mIoU" in trainer.callback_metrics
    if measured and not task.evaluation.confusion.pixels().any():
        say("no pixel has a label: nothing was measured")
    elif measured:
        facts["mIoU"] = f"{trainer.callback_metrics[f'{split}/mIoU'].item():.4f}"
    tables = [iou_table(f"IoU, {title}", task.class_names, task.evaluation)] if "mIoU" in facts else []
    if tables and task.evaluation.in_detail:
        tables.append(size_table(task.evaluation))
    print_summary(Group(*tables) if tables else None, facts | places)


def places_of(
    run: Run,
    trainer: Trainer,
    results: Results | None,
    cost: Cost | None,
    wandb_line: str,
    submission: Path | None,
) -> dict[str, str]:
    """Say where everything lies, leaving out what this run did not write."""
    places = {"run folder": str(run.path)}
    best, last = run.checkpoints / "best.ckpt", run.checkpoints / "last.ckpt"
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, BestCheckpoint) and best.is_file():
            score = callback.best_model_score
            places["best"] = str(best) if score is None else f"{best}  (val/mIoU {score:.4f})"
    for name, path in {"last": last, "metrics": run.metrics, "pictures": run.pictures}.items():
        if path.exists():
            places[name] = str(path)
    if results is not None and results.written:
        places["results"] = str(results.written[-1])
    if cost is not None:
        places["logging"] = cost.told()
    places["W&B"] = wandb_line
    return places if submission is None else places | {"submission": str(submission)}
