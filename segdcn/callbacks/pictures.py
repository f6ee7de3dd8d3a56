"""Pictures of a few fixed validation images: with validations on W&B, and in the run folder when training ends."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from segdcn.callbacks.processes import of_all_processes
from segdcn.callbacks.reading import predict
from segdcn.callbacks.shown import (
    Shown,
    chosen_indices,
    draw_confusion,
    draw_fields,
    draw_prediction,
    draw_sampling,
    look,
)
from segdcn.errors import UserValueError
from segdcn.loggers import wandb_log
from segdcn.stopwatch import Stopwatch
from segdcn.task import SegmentationTask
from segdcn.wandb_pictures import drawn_images, overlay_images

# What a validation sends, from cheap to dear: masks, the confusion matrix, where the deformable layers read.
PARTS = ("samples", "confusion", "offsets")
# Pictures by caption or file, and those by their key on W&B.
Drawn = dict[str, Image.Image]
Drawings = dict[str, Drawn]


class Pictures(Callback):
    """Show what a network makes of a few validation images, always the same ones.

    With every validation of `fit`, on W&B, in one record: `val/samples`, the images with masks of labels and
    prediction; `val/confusion`, the confusion matrix; `offsets/sampling` and `offsets/fields`, where the
    deformable layers read. Predictions are those that were measured. A part is left out as long as with it the
    pictures would have taken more than `max_share` of the time since training began.

    When fit ends, in `pictures/` of the run folder: `<name>.png` of each image, with labels, prediction and errors,
    and `<name>_sampling.png`; `<name>_<layer>.png` of the first image; `confusion.png`. W&B then gets those parts
    that the last validation left out.

    Args:
        count: How many images; 0 draws nothing at all.
        every_n_validations: Validations from one that is shown to the next; 0 shows none before the end.
        max_share: Of the time of training, what pictures may take before its end; 1 is no limit.
        max_side: Longer side of the images on W&B, in pixels; larger ones are reduced.
        seed: Which images: the same in every run on a set.
    """

    def __init__(
        self, count: int = 4, every_n_validations: int = 1, max_share: float = 0.005, max_side: int = 512, seed: int = 0
    ) -> None:
        for name, value in {"count": count, "every_n_validations": every_n_validations, "seed": seed}.items():
            if value < 0:
                raise UserValueError(f"pictures.{name} is {value}; it must be 0 or more")
        if not 0 <= max_share <= 1:
            raise UserValueError(f"pictures.max_share is {max_share}; expected a share from 0 to 1, which is no limit")
        if max_side < 1:
            raise UserValueError(f"pictures.max_side is {max_side}; expected a number of pixels")
        self.count, self.every_n_validations, self.seed = count, every_n_validations, seed
        self.max_share, self.max_side = max_share, max_side
        self.stopwatch = Stopwatch()
        self._started = 0.0
        self._validations = 0
        self._chosen: list[str] = []  # names
        self._shown: list[Shown] = []
        self._due: list[str] = []
        self._looking = 0.0  # seconds
        self._took = dict.fromkeys(PARTS, 0.0)  # seconds, the last time
        self._step = -1  # of the last validation,
        self._drawn: dict[str, Drawings] = {}  # which sent these parts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the images."""
        self._started = time.perf_counter()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        samples = data.eval_dataset(data.val_split).samples
        self._chosen = [samples[index].name for index in chosen_indices(len(samples), self.count, self.seed)]

    # With validations

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide what this validation shows: the first process does, for all."""
        assert isinstance(pl_module, SegmentationTask)
        self._shown, self._due, self._drawn, self._looking = [], [], {}, 0.0
        self._step = trainer.global_step
        if trainer.sanity_checking or not self._chosen or not self.every_n_validations:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations == 0:
            self._due = trainer.strategy.broadcast(self._affordable(trainer, pl_module))

    def _affordable(self, trainer: Trainer, task: SegmentationTask) -> list[str]:
        """Choose parts from cheap to dear, expecting that each takes as long as it last did."""
        if wandb_log(trainer.loggers) is None:
            return []
        due, spent = [], self.stopwatch.seconds
        for part in _parts(task):
            if spent + self._took[part] <= self.max_share * (time.perf_counter() - self._started):
                due.append(part)
                spent += self._took[part]
        return due

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what belongs to the chosen images; now, since averaged weights are gone when the pass has ended."""
        assert isinstance(pl_module, SegmentationTask)
        for i, name in enumerate(batch["name"] if self._due else []):
            if name in self._chosen:
                with self.stopwatch:
                    height, width = batch["size"][i]
                    maps = batch["image"][i], batch["labels"][i, :height, :width], outputs[i]
                    self._shown.append(look(trainer, pl_module, name, *maps, with_offsets="offsets" in self._due))
                self._looking += self.stopwatch.last

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the pictures, in one record."""
        assert isinstance(pl_module, SegmentationTask)
        if not self._due:
            return
        self._shown = sorted(of_all_processes(self._shown), key=lambda one: self._chosen.index(one.name))
        if (log := wandb_log(trainer.loggers)) is None:
            return
        record: dict[str, list[Any]] = {}
        for part in self._due:
            with self.stopwatch:
                self._drawn[part] = _draw(part, self._shown, pl_module)
                record |= self._media(part, self._shown, pl_module, self._drawn[part])
            self._took[part] = self.stopwatch.last
        with self.stopwatch:
            log.send(record, trainer.global_step - 1)
        # Copying the files is mostly that of the samples; looking, that of the dearest part.
        self._took[self._due[0]] += self.stopwatch.last
        self._took[self._due[-1]] += self._looking

    def _media(
        self, part: str, shown: Sequence[Shown], task: SegmentationTask, drawn: Drawings
    ) -> dict[str, list[Any]]:
        """Turn a part into what W&B takes, by its keys there."""
        if part == "samples" and shown:
            overlays = [one.overlay(task, self.max_side) for one in shown]
            return {"val/samples": overlay_images(overlays, task.class_names)}
        return {key: drawn_images(drawings) for key, drawings in drawn.items()}

    # When fit ends

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all, from the weights at the end of training."""
        dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning; there is no run folder then
        if dry or not trainer.is_global_zero or not self._chosen:
            return
        assert isinstance(pl_module, SegmentationTask)
        with self.stopwatch:
            parts, sent = _parts(pl_module), self._drawn if self._step == trainer.global_step else {}
            # The last validation may have seen and drawn all of it.
            if len(sent) < len(parts) or len(self._shown) < len(self._chosen):
                self._shown = self._look_again(trainer, pl_module)
            drawn = {part: sent[part] if part in sent else _draw(part, self._shown, pl_module) for part in parts}
            folder = Path(trainer.default_root_dir) / "pictures"
            folder.mkdir(exist_ok=True)
            for name, picture in _files(self._shown, pl_module, drawn).items():
                picture.save(folder / name)
            record: dict[str, list[Any]] = {}
            for part in parts:
                if part not in sent:
                    record |= self._media(part, self._shown, pl_module, drawn[part])
            log = wandb_log(trainer.loggers)
            if log is not None and record:
                log.send(record, trainer.global_step - 1)

    def _look_again(self, trainer: Trainer, task: SegmentationTask) -> list[Shown]:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        dataset, collate = data.eval_dataset(data.val_split), data.val_dataloader().collate_fn
        places = {sample.name: index for index, sample in enumerate(dataset.samples)}
        shown = []
        for name in self._chosen:
            item = dataset[places[name]]
            image = collate([item])["image"].to(task.device)  # (1, 3, H', W'), a size that the network takes
            prediction = predict(trainer, task, image)
            shown.append(look(trainer, task, name, image[0], item["labels"], prediction, with_offsets=True))
        return shown


def _parts(task: SegmentationTask) -> list[str]:
    return [part for part in PARTS if part != "offsets" or task.hparams["deform_layers"]]


def _draw(part: str, shown: Sequence[Shown], task: SegmentationTask) -> Drawings:
    """Draw a part; W&B lays masks over samples by itself."""
    if part == "confusion" and task.evaluation.confusion.pixels().any():
        return {"val/confusion": {"labels by prediction": draw_confusion(task)}}
    if part == "offsets" and shown:
        return {
            "offsets/sampling": {one.name: draw_sampling(one, task) for one in shown},
            "offsets/fields": draw_fields(shown[0], task),
        }
    return {}


def _files(shown: Sequence[Shown], task: SegmentationTask, drawn: Mapping[str, Drawings]) -> Drawn:
    """Name what the run folder gets after the images."""
    by_key = {key: drawings for part in drawn.values() for key, drawings in part.items()}
    files = {f"{one.stem}.png": draw_prediction(one, task) for one in shown}
    for picture in by_key.get("val/confusion", {}).values():
        files["confusion.png"] = picture
    stems = {one.name: one.stem for one in shown}
    files |= {f"{stems[name]}_sampling.png": picture for name, picture in by_key.get("offsets/sampling", {}).items()}
    return files | {
        f"{shown[0].stem}_{layer}.png": picture for layer, picture in by_key.get("offsets/fields", {}).items()
    }
