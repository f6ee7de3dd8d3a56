"""What a comparison of networks needs of a validation beyond its numbers: predictions, and how the offsets are."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from segdcn.callbacks.reading import read_offsets
from segdcn.errors import MissingFileError
from segdcn.offsets import SamplingField, health
from segdcn.task import SegmentationTask

ASKED = 16  # images of which the offsets are measured
FILE = "evidence.json"


class Evidence(Callback):
    """Keep the predictions of some validation images as files, and measure the offsets on a few of them.

    Writes `evidence.json` and `predictions/<index>.png` (class ids) to the run folder. The images are
    spread evenly over the validation set, so they are the same in every run on that set. One
    process only.

    Args:
        predictions: Most predictions to keep; 0 keeps none.
    """

    def __init__(self, predictions: int = 0) -> None:
        self.predictions = predictions
        self._kept: set[int] = set()
        self._asked: set[int] = set()
        self._fields: dict[str, list[SamplingField]] = {}
        self._written: dict[int, str] = {}
        self._index = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the images."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        length = len(data.eval_dataset(data.val_split))
        self._kept = set(_spread(length, self.predictions)) if self.predictions else set()
        self._asked = set(_spread(length, ASKED)) if pl_module.hparams["deform_layers"] else set()
        (self._folder(trainer) / "predictions").mkdir(exist_ok=True)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the images of a batch."""
        assert isinstance(pl_module, SegmentationTask)
        for place, name in enumerate(batch["name"]):
            if self._index in self._kept:
                height, width = batch["size"][place]
                prediction = outputs[place, :height, :width].byte().cpu().numpy()
                Image.fromarray(prediction).save(prediction_file(self._folder(trainer), self._index))
                self._written[self._index] = name
            if self._index in self._asked:
                for field in read_offsets(trainer, pl_module, batch["image"][place : place + 1]):
                    self._fields.setdefault(field.name, []).append(field)
            self._index += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was found."""
        device = pl_module.device
        found = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "predictions": self._written,
            "offsets": {
                name: {key: _plain(value) for key, value in asdict(health(fields)).items()}
                for name, fields in self._fields.items()
            },
        }
        (self._folder(trainer) / FILE).write_text(json.dumps(found, indent=2) + "\n")

    def _folder(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir)


def prediction_file(run_folder: Path, index: int) -> Path:
    """Name the file of the prediction of an image, by its index in the validation set."""
    return run_folder / "predictions" / f"{index:06d}.png"


def read_prediction(run_folder: Path, index: int) -> np.ndarray:
    """Read class ids (H, W) uint8.

    Raises:
        MissingFileError: There is no such prediction.
    """
    path = prediction_file(run_folder, index)
    if not path.is_file():
        raise MissingFileError(f"{path} is gone")
    with Image.open(path) as file:
        return np.array(file)


def _plain(value: Any) -> Any:
    """Write NaN as null, which is what JSON has."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _spread(length: int, count: int) -> list[int]:
    """Spread `count` indices evenly over `length` samples, first and last included."""
    count = min(length, count)
    if count == 1:
        return [0]
    return [round(step * (length - 1) / (count - 1)) for step in range(count)]
