"""What an evaluation leaves behind: its numbers as JSON, and a picture of the confusions."""

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from segdcn import __version__
from segdcn.task import SegmentationTask


class Results(Callback):
    """Write what `validate` or `test` measured, together with all that it depends on.

    `results.json` and `pictures/confusion.png` go to the run folder, and the same JSON beside the
    checkpoint as `<checkpoint>.<run folder>.json`: every run folder has a time of its own, so
    results of one checkpoint under several settings stand side by side, and none is overwritten.

    Args:
        run_folder: Folder of this run.
        checkpoint: File of the weights.
        facts: What else the numbers depend on; part of the JSON.
    """

    def __init__(self, run_folder: Path, checkpoint: Path, facts: dict[str, Any]) -> None:
        self.run_folder, self.checkpoint, self.facts = run_folder, checkpoint, facts
        self.written: list[Path] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of `validate`."""
        self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the results of `test`."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, task: LightningModule, stage: str) -> None:
        assert isinstance(task, SegmentationTask)
        if not trainer.is_global_zero or not task.evaluation.confusion.pixels().any():
            return
        measured = task.evaluation.results(task.class_names)
        report = {
            "segdcn": __version__,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "checkpoint": _described(self.checkpoint),
            "run_folder": str(self.run_folder.absolute()),
            **self.facts,
            "evaluation": {key: value for key, value in task.hparams.items() if key.startswith("eval_")},
            "loss": trainer.callback_metrics[f"{stage}/loss"].item(),
            **measured,
        }
        text = json.dumps(report, indent=2) + "\n"
        for path in (self.run_folder / "results.json", self._beside_checkpoint()):
            try:
                path.write_text(text)
                self.written.append(path)
            except OSError:  # weights may lie where nothing can be written
                if path.parent == self.run_folder:
                    raise
        images = f"{measured['images']} image{'' if measured['images'] == 1 else 's'}"
        self._draw(task, f"{stage}, {images}, mIoU {measured['mIoU']:.4f}")

    def _beside_checkpoint(self) -> Path:
        path = self.checkpoint.with_name(f"{self.checkpoint.stem}.{self.run_folder.name}.json")
        number = 2
        while path.exists():  # by a run of the same second below another --runs_dir
            path = path.with_name(f"{self.checkpoint.stem}.{self.run_folder.name}-{number}.json")
            number += 1
        return path

    def _draw(self, task: SegmentationTask, title: str) -> None:
        # Imported here: matplotlib takes a second, and is needed at the end only.
        from segdcn.pictures.confusion import confusion_picture

        folder = self.run_folder / "pictures"
        folder.mkdir(exist_ok=True)
        matrix = task.evaluation.confusion.matrix.cpu().numpy()
        confusion_picture(matrix, task.class_names, title).save(folder / "confusion.png")


def _described(checkpoint: Path) -> dict[str, Any]:
    """Say which file it was: the run may go on and replace it."""
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": str(checkpoint.absolute()), "bytes": checkpoint.stat().st_size, "sha256": digest}
