"""Watching the offsets learn: numbers, warnings, and an end where they are no numbers any more."""

import logging
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segdcn.callbacks.reading import read_offsets
from segdcn.errors import Diverged, UserValueError
from segdcn.offsets import Health, health
from segdcn.stopwatch import Stopwatch
from segdcn.task import SegmentationTask

_log = logging.getLogger("segdcn")


class OffsetHealth(Callback):
    """Log how the offsets of every deformable layer are, warn, and stop a run whose offsets are lost.

    Every `every_n_steps` optimizer steps, of the first image of the batch, as `offsets/<layer>/`:
    `mean` and `p95`, the mean and the 95th percentile of their length in units of the dilation;
    `outside`, the share of the reads outside the map; `saturated`, the share of the modulations
    near 0 or 2. `offsets/grad_norm` is the L2 norm of the gradient of all that predicts offsets
    before clipping.

    Offsets that are infinite or NaN end the run: the operator reads such positions as outside,
    which is 0, so the loss alone would not show it. Gradients are watched by `Divergence`.

    A network without deformable layers is left alone.

    Args:
        every_n_steps: Optimizer steps between two looks, each a forward pass of one image; 0 never looks.
        dead_after: Steps of learning after which offsets that still rest are worth a warning.
        dead_below: They rest if 95 % of them are shorter than this share of the dilation.
        exploded_above: Offsets are worth a warning if 5 % of them are longer than this many dilations.
    """

    def __init__(
        self, every_n_steps: int = 100, dead_after: int = 1000, dead_below: float = 0.01, exploded_above: float = 10.0
    ) -> None:
        for name, value in {"every_n_steps": every_n_steps, "dead_after": dead_after}.items():
            if value < 0:
                raise UserValueError(f"offset_health.{name} is {value}; expected 0 or more")
        if not 0 <= dead_below < exploded_above:
            raise UserValueError(
                f"offset_health.dead_below is {dead_below} and exploded_above is {exploded_above}; "
                "expected lengths in dilations, the smaller first"
            )
        self.every_n_steps, self.dead_after = every_n_steps, dead_after
        self.dead_below, self.exploded_above = dead_below, exploded_above
        self.stopwatch = Stopwatch()
        self._parameters: list[Tensor] = []
        self._grad_norm: Tensor | None = None
        self._looked_at = 0
        self._warned: set[tuple[str, str]] = set()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what predicts offsets."""
        if self.every_n_steps:
            named = pl_module.named_parameters()
            self._parameters = [parameter for name, parameter in named if ".offset_conv." in name]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the norm of the gradient, which is unscaled and not clipped yet."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if not gradients:
            return
        with self.stopwatch:
            self._grad_norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, where it is time to."""
        step = trainer.global_step
        if not self._parameters or step % self.every_n_steps or step in (0, self._looked_at):
            return
        self._looked_at = step
        assert isinstance(pl_module, SegmentationTask)
        with self.stopwatch:
            found = {field.name: health([field]) for field in read_offsets(trainer, pl_module, batch["image"][:1])}
        lost = [name for name, layer in found.items() if not layer.finite]
        # Processes look at different images, and have to stop together.
        if not trainer.strategy.reduce_boolean_decision(not lost, all=True):
            raise Diverged(
                f"the offsets of {', '.join(lost) or 'a deformable layer'} are infinite or NaN at step {step}: the "
                "network is lost, though its loss may not show it; lower model.lr or model.offset_lr_scale, or set "
                "trainer.gradient_clip_val"
            )
        self._warn(found, step, pl_module)
        self._send(found, trainer)

    def _warn(self, found: dict[str, Health], step: int, task: SegmentationTask) -> None:
        """Warn once of every layer whose offsets rest or fly."""
        learning = step - task.hparams["offset_warmup_steps"]
        dead = [name for name, layer in found.items() if layer.p95 < self.dead_below]
        if learning >= self.dead_after and (names := self._news("dead", dead)):
            _log.warning(
                f"offsets are dead after {learning} steps of learning: 95 % are shorter than {self.dead_below:g} "
                f"dilations in {names}; raise model.offset_lr_scale, now {task.hparams['offset_lr_scale']:g}"
            )
        exploded = [name for name, layer in found.items() if layer.p95 > self.exploded_above]
        if names := self._news("exploded", exploded):
            _log.warning(
                f"offsets explode at step {step}: 5 % are longer than {self.exploded_above:g} dilations in {names}; "
                f"lower model.offset_lr_scale, now {task.hparams['offset_lr_scale']:g}, or clip gradients"
            )

    def _news(self, what: str, names: list[str]) -> str:
        """Name the layers that were not warned of yet."""
        new = [name for name in names if (what, name) not in self._warned]
        self._warned |= {(what, name) for name in new}
        return ", ".join(new)

    def _send(self, found: dict[str, Health], trainer: Trainer) -> None:
        """Send the numbers to the loggers; not through `log`, which drops them off the steps of log_every_n_steps."""
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        if self._grad_norm is not None:
            row["offsets/grad_norm"] = float(self._grad_norm)
        for name, layer in found.items():
            values = {key: getattr(layer, key) for key in ("mean", "p95", "outside", "saturated")}
            row |= {f"offsets/{name}/{key}": value for key, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(row, step=trainer.global_step - 1)  # the step that was taken, as Lightning counts
