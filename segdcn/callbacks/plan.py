"""What a run is going to do, said before it does it."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Plan(Callback):
    """Say how many steps of how many images a run takes, and whether the learning rate was made for that."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        batch, accumulated, processes = data.batch_size, trainer.accumulate_grad_batches, trainer.world_size
        images = batch * accumulated * processes
        steps, epoch = int(trainer.estimated_stepping_batches), math.ceil(trainer.num_training_batches / accumulated)
        made_of = f" ({batch} x {accumulated} accumulated x {processes} in parallel)" if images != batch else ""
        lines = [f"training: {steps} steps of {images} images{made_of}, {steps / epoch:.4g} epochs of {epoch} steps"]
        if trainer.global_step:
            lines[0] += f"; goes on from step {trainer.global_step}"
        settings = pl_module.hparams
        made_for = settings["lr_batch"]
        if made_for is not None and made_for != images:
            rate = scaled_rate(settings["lr"], images / made_for, settings["optimizer"])
            lines.append(
                f"warning: model.lr {settings['lr']:g} was chosen for {made_for} images a step, here are {images}; "
                f"the usual rule gives --model.lr {rate:.3g} --model.lr_batch {images}; nothing was changed"
            )
        for line in lines:
            print(f"segdcn: {line}", flush=True)


def scaled_rate(lr: float, factor: float, optimizer: str) -> float:
    """Scale a learning rate to `factor` times as many images a step.

    SGD's by the factor (Goyal et al. 2017), AdamW's by its square root (Malladi et al. 2022).
    """
    return lr * (factor if optimizer == "sgd" else math.sqrt(factor))
