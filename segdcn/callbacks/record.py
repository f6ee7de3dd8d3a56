"""What a checkpoint says about its run beyond weights and settings."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Record(Callback):
    """Put plain facts about the run into its checkpoints, under `segdcn`, and note its last validation.

    Among the facts is the state of torch's random numbers: with it a resumed run draws the
    dropout that it would have drawn. All processes start from one seed and draw alike, so
    the state of the first, which saves, is that of all.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.validated_epoch = 0  # counted from 1
        self.begun = False  # what a checkpoint holds has been restored
        self._random: dict[str, torch.Tensor] = {}  # to be restored

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the facts."""
        random = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint["segdcn"] = self.facts | {"random": random}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the state of the random numbers, to be set with the first step."""
        self._random = checkpoint.get("segdcn", {}).get("random", {})
        if "cpu" in self._random:
            torch.Generator().set_state(self._random["cpu"])  # refuses now what is no such state

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the run has begun."""
        self.begun = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note it where there is no sanity check."""
        self.begun = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set it only now, when loaders are set up and the batch is read: what draws next is the training step."""
        random, self._random = self._random, {}
        if "cpu" in random:
            torch.set_rng_state(random["cpu"])
        if "cuda" in random and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the epoch."""
        self.validated_epoch = trainer.current_epoch + 1
