"""Pictures of a few fixed validation images, drawn when training ends."""

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segdcn import offsets
from segdcn.errors import UserValueError
from segdcn.task import SegmentationTask


class Pictures(Callback):
    """Draw what a network makes of a few validation images at the end of fit.

    Two files for each image, in `pictures/` of the run folder: `<name>.png` with image,
    labels, prediction and errors, and `<name>_sampling.png` with the points that the
    deformable layers read at places inside the largest objects. The images are spread
    evenly over the validation set, so they are the same in every run on that set.

    Args:
        count: How many images; 0 draws none.
    """

    def __init__(self, count: int = 4) -> None:
        if count < 0:
            raise UserValueError(f"pictures.count is {count}; it must be 0 (none) or more")
        self.count = count

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw them, from the weights at the end of training."""
        dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning; there is no run folder then
        if dry or not trainer.is_global_zero or not self.count:
            return
        assert isinstance(pl_module, SegmentationTask)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # likewise
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(exist_ok=True)
        dataset = data.eval_dataset(data.val_split)
        collate = data.val_dataloader().collate_fn
        for index in fixed_indices(len(dataset), self.count):
            sample = dataset[index]
            padded = collate([sample])["image"]  # (1, 3, H, W), a size that the network takes
            prediction, fields = look(trainer, pl_module, padded)
            stem = folder / Path(sample["name"]).name
            draw_prediction(sample, prediction, pl_module).save(f"{stem}.png")
            if fields:
                draw_sampling(sample, fields, pl_module).save(f"{stem}_sampling.png")


def fixed_indices(length: int, count: int) -> list[int]:
    """Spread `count` indices evenly over `length` samples, first and last included."""
    count = min(length, count)
    if count == 1:
        return [0]
    return [round(step * (length - 1) / (count - 1)) for step in range(count)]


def look(trainer: Trainer, task: SegmentationTask, image: Tensor) -> tuple[Tensor, list[offsets.SamplingField]]:
    """Run one image (1, 3, H, W) as validation does, in the run's precision.

    Returns:
        Class indices (H, W), and where each deformable layer read.
    """
    logits: list[Tensor] = []
    was_training = task.training
    task.eval()
    # A compiled network would not see the hooks that record.
    with trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
        fields = offsets.record(lambda image: logits.append(task(image)), task.network, image.to(task.device))
    task.train(was_training)
    return logits[0].argmax(1)[0].cpu(), fields


# matplotlib is imported inside: it takes a second, and is needed at the end of a run only.


def draw_prediction(sample: dict[str, Any], prediction: Tensor, task: SegmentationTask) -> Any:
    """Draw a sample of `eval_dataset` beside its prediction, which may be padded."""
    from segdcn.pictures import segmentation

    height, width = sample["labels"].shape
    return segmentation.panel(
        image=sample["image"],
        labels=sample["labels"],
        prediction=prediction[:height, :width],
        palette=task.hparams["palette"],
        class_names=task.class_names,
        mean=task.hparams["mean"],
        std=task.hparams["std"],
    )


def draw_sampling(sample: dict[str, Any], fields: list[offsets.SamplingField], task: SegmentationTask) -> Any:
    """Draw what the deformable layers read at a few places."""
    from segdcn.pictures import offsets as offset_pictures
    from segdcn.pictures import segmentation

    places = offset_pictures.choose_places(sample["labels"].numpy())
    return offset_pictures.follow(
        segmentation.to_pixels(sample["image"], task.hparams["mean"], task.hparams["std"]),
        fields,
        [(y, x, task.class_names[label]) for y, x, label in places],
    )
