"""The course of effective dilation over training: a few numbers after every validation, a picture at the end."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from segdcn import offsets
from segdcn.callbacks.reading import read_offsets
from segdcn.errors import UserValueError
from segdcn.object_sizes import LIMITS
from segdcn.task import SegmentationTask


class EffectiveDilationLog(Callback):
    """Measure how far apart the deformable layers read at the centres of validation objects, by size.

    The paper's table 2. Logged with every validation as `offsets/<layer>/effective_dilation/<size>`,
    size being small, medium, large and background; where the data set has instance maps, they
    say what an object is, elsewhere connected pieces of a class are. At the end of `fit`, and
    by `validate`, `pictures/effective_dilation.png` and `effective_dilation.csv` also give it by
    class, as a histogram, and over the run.

    A network without deformable layers is left alone.

    Args:
        images: How many validation images are asked, the first ones; each costs a forward pass of
            the encoder. 0 measures nothing.
        sizes: Areas in pixels of the image at which an object becomes medium, and large.
    """

    def __init__(self, images: int = 100, sizes: tuple[int, int] = LIMITS) -> None:
        if images < 0:
            raise UserValueError(f"effective_dilation.images is {images}; it must be 0 (none) or more")
        self.images, self.sizes = images, (sizes[0], sizes[1])
        self.found = offsets.EffectiveDilation(self.sizes)
        self.history: list[tuple[int, dict[str, list[float]]]] = []
        self._asked = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        assert isinstance(pl_module, SegmentationTask)
        names = pl_module.class_names
        background = names.index("background") if "background" in names else None
        self.found, self._asked = offsets.EffectiveDilation(self.sizes, background), 0

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
        wanted = -(-self.images // trainer.world_size) - self._asked
        if trainer.sanity_checking or wanted <= 0 or not pl_module.hparams["deform_layers"]:
            return
        for index, name in enumerate(batch["name"][:wanted]):
            fields = read_offsets(trainer, pl_module, batch["image"][index : index + 1])
            labels, instances = batch["labels"][index].cpu().numpy(), _instances(trainer, name)
            if instances is not None:  # the batch may be padded
                labels = labels[: instances.shape[0], : instances.shape[1]]
            self.found.add(fields, labels, instances)
            self._asked += 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the means."""
        self.found.rows = _of_all_processes(self.found.rows)
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

        assert isinstance(pl_module, SegmentationTask)
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(exist_ok=True)
        by_size, by_class = self.found.by_size(), self.found.by_class(pl_module.class_names)
        dilation_picture(self.found.layers, by_size, by_class).save(folder / "effective_dilation.png")
        if len(self.history) > 1:
            course_picture(self.found.layers, self.history).save(folder / "effective_dilation_course.png")
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


def _of_all_processes(rows: list[Any]) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]
