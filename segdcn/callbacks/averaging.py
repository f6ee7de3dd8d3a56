"""A moving average of the weights, which is what is validated and saved."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segdcn.task import TRAINED_WEIGHTS, SegmentationTask


class AveragedWeights(Callback):
    """Average the network's weights over the steps, exponentially (EMA).

    After optimizer step t, counted from 1,

        average = d * average + (1 - d) * weights,   d = min(decay, t / (t + 9))

    so that the average of a short run is not its start. The statistics of normalisation are
    averaged in the same way, since they belong to the weights of their time; counters are copied.

    Validation during fit, `state_dict` of every checkpoint, and the network when fit ends are
    the average. The weights being trained are beside it in the checkpoint, as
    `current_model_state`, so a resumed run goes on exactly.

    It costs one more copy of the weights, and one pass over them each step.

    (Lightning's WeightAveraging swaps the whole module at the end of a validation before the
    module has read its own counts, and has the GPU waited for at every step.)

    Args:
        decay: In [0, 1); 0.999 looks back about 1,000 steps. A tenth of the run is a start.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: nn.Module | None = None
        self._updates = 0
        self._step = 0  # of the last update; a step may be more than one batch
        self._swapped = False  # the network holds the average, and `average` the weights being trained

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the network, before it is compiled or wrapped."""
        if stage == "fit":
            self.average = copy.deepcopy(_network(pl_module)).requires_grad_(False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the network to its device."""
        assert self.average is not None
        self.average.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights in, if they have changed."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._updates += 1
        decay = min(self.decay, self._updates / (self._updates + 9))
        pairs = list(self._pairs(pl_module))
        real = [(mean, now) for mean, now in pairs if mean.is_floating_point()]
        get_ema_multi_avg_fn(decay)([mean for mean, _ in real], [now for _, now in real], 0)
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate with the average."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the weights."""
        self._swap(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network."""
        self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for mean, now in self._pairs(pl_module):
            kept = mean.clone()
            mean.copy_(now)
            now.copy_(kept)
        self._swapped = not self._swapped

    def _pairs(self, pl_module: LightningModule) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair every parameter and buffer of the average with the network's."""
        if self.average is None:
            return
        network = _network(pl_module)
        yield from zip(self.average.parameters(), network.parameters(), strict=True)
        yield from zip(self.average.buffers(), network.buffers(), strict=True)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Return how far the average has come."""
        return {"updates": self._updates, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._updates, self._step = state_dict["updates"], state_dict["step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the average where everyone looks for weights, and the weights beside it."""
        assert self.average is not None
        network = checkpoint["state_dict"]
        beside = network | {f"network.{name}": value for name, value in self.average.state_dict().items()}
        # A run may be stopped within a validation.
        average, weights = (network, beside) if self._swapped else (beside, network)
        checkpoint["state_dict"], checkpoint[TRAINED_WEIGHTS] = average, weights

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load both; a run that did not average starts to from its weights."""
        assert self.average is not None
        saved = checkpoint["state_dict"]
        self.average.load_state_dict(
            {name.removeprefix("network."): value for name, value in saved.items() if name.startswith("network.")}
        )
        # Lightning has loaded the average into the network.
        pl_module.load_state_dict(checkpoint.get(TRAINED_WEIGHTS, saved))


def _network(pl_module: LightningModule) -> nn.Module:
    assert isinstance(pl_module, SegmentationTask)
    return pl_module.network
