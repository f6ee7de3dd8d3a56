"""The course of effective dilation over training: a few numbers after every validation, a picture at the end."""

import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from segdcn import offsets
from segdcn.callbacks.processes import of_all_processes
from segdcn.callbacks.reading import read_offsets
from segdcn.errors import UserValueError
from segdcn.loggers import wandb_log
from segdcn.object_sizes import LIMITS
from segdcn.stopwatch import Stopwatch
from segdcn.task import SegmentationTask


class EffectiveDilationLog(Callback):
    """Measure how far apart the deformable layers read at the centres of validation objects, by size.

    The paper's table 2. Logged with every validation as `offsets/<layer>/effective_dilation/<size>`,
    size being small, medium, large and background; where the data set has instance maps, they
    say what an object is, elsewhere connected pieces of a class are. At the end of `fit`, and
    by `validate`, `pictures/effective_dilation.png` and `effective_dilation.csv` also give it by
    class, as a histogram, and over the run. W&B gets these pictures when `fit` ends, as
    `offsets/effective_dilation` and `offsets/effective_dilation_course`.

    What the layers predict is taken from the pass of validation itself, at the cost of predicting the
    offsets once more; a compiled network, windows, scales and mirroring need a pass of the encoder.

    A network without deformable layers is left alone.

    Args:
        images: How many validation images are asked, the first ones. 0 measures nothing.
        sizes: Areas in pixels of the image at which an object becomes medium, and large.
    """

    def __init__(self, images: int = 100, sizes: tuple[int, int] = LIMITS) -> None:
        if images < 0:
            raise UserValueError(f"effective_dilation.images is {images}; it must be 0 (none) or more")
        self.images, self.sizes = images, (sizes[0], sizes[1])
        self.found = offsets.EffectiveDilation(self.sizes)
        self.history: list[tuple[int, dict[str, list[float]]]] = []
        self.stopwatch = Stopwatch()
        self._asked = 0
        self._regions: dict[str, list[offsets.Region]] = {}  # by image; they stay the same
        self._hooks = ExitStack()
        self._recorded: list[list[offsets.SamplingField]] | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        assert isinstance(pl_module, SegmentationTask)
        names = pl_module.class_names
        background = names.index("background") if "background" in names else None
        self.found, self._asked = offsets.EffectiveDilation(self.sizes, background), 0

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen to the deformable layers, where the network is to run on whole images."""
        assert isinstance(pl_module, SegmentationTask)
        self._recorded = None
        wanted = len(batch["name"][: self._wanted(trainer, pl_module)])
        if wanted and pl_module.inference.is_plain and not pl_module.hparams["compile"]:
            listening = offsets.recording(pl_module.network, wanted, self.stopwatch)
            self._recorded = self._hooks.enter_context(listening)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Ask the deformable layers about the images of a batch."""
        assert isinstance(pl_module, SegmentationTask)
        self._hooks.close()
        with self.stopwatch:
            for index, name in enumerate(batch["name"][: self._wanted(trainer, pl_module)]):
                if self._recorded is None:
                    fields = read_offsets(trainer, pl_module, batch["image"][index : index + 1])
                else:
                    fields = self._recorded[index]
                if name not in self._regions:
                    self._regions[name] = self._find(trainer, name, batch["labels"][index].cpu().numpy())
                self.found.ask(fields, self._regions[name])
                self._asked += 1

    def _wanted(self, trainer: Trainer, task: SegmentationTask) -> int:
        """Say how many images this process has still to ask."""
        if trainer.sanity_checking or not task.hparams["deform_layers"]:
            return 0
        return max(0, -(-self.images // trainer.world_size) - self._asked)

    def _find(self, trainer: Trainer, name: str, labels: np.ndarray) -> list[offsets.Region]:
        instances = _instances(trainer, name)
        if instances is not None:  # the batch may be padded
            labels = labels[: instances.shape[0], : instances.shape[1]]
        return self.found.find(labels, instances)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means."""
        self.found.rows = of_all_processes(self.found.rows)
        if not self.found.rows:
            return
        means = {name: values.mean(0).tolist() for name, values in self.found.by_size().items() if len(values)}
        if trainer.state.fn == TrainerFn.FITTING:
            self.history.append((trainer.global_step, means))
        pl_module.log_dict(
            {
                f"offsets/{layer}/effective_dilation/{size}": value
                for size, values in means.items()
                for layer, value in zip(self.found.layers, values, strict=True)
            },
            sync_dist=True,  # every process has the same numbers already
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, where the validation was all there is."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation, and the course."""
        with self.stopwatch:
            self._draw(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Keep the course for a run that is resumed."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the course."""
        self.history = list(state_dict["history"])

    def _draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning; there is no run folder then
        if dry or not trainer.is_global_zero or not self.found.rows:
            return
        # Imported here: matplotlib takes a second, and is needed at the end of a run only.
        from segdcn.pictures.effective_dilation import course_picture, dilation_picture
        from segdcn.wandb_pictures import drawn_images

        assert isinstance(pl_module, SegmentationTask)
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(exist_ok=True)
        by_size, by_class = self.found.by_size(), self.found.by_class(pl_module.class_names)
        pictures = {"effective_dilation": dilation_picture(self.found.layers, by_size, by_class)}
        if len(self.history) > 1:
            pictures["effective_dilation_course"] = course_picture(self.found.layers, self.history)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}.png")
        if (log := wandb_log(trainer.loggers)) is not None and trainer.state.fn == TrainerFn.FITTING:
            media = {f"offsets/{name}": drawn_images({name: picture}) for name, picture in pictures.items()}
            log.send(media, trainer.global_step - 1)
        _write_table(folder / "effective_dilation.csv", self.found.layers, by_class | by_size)


def _write_table(path: Path, layers: list[str], groups: dict[str, Tensor]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["group", "objects", *(f"{layer} {what}" for layer in layers for what in ("mean", "std"))])
        for name, values in groups.items():
            if len(values):
                pairs = zip(values.mean(0).tolist(), values.std(0, correction=0).tolist(), strict=True)
                writer.writerow([name, len(values), *(f"{value:.4f}" for pair in pairs for value in pair)])


def _instances(trainer: Trainer, name: str) -> Any:
    """Read the instance map of a validation image; None where the data set has none."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
    if data is None:
        return None
    sample = next(sample for sample in data.samples(data.val_split) if sample.name == name)
    return None if sample.instances is None else data.resized(data.read_instances(sample).astype(np.int32))
