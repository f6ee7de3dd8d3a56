"""The end of a run whose loss or gradients are lost, before anything of that is saved."""

import logging
import math
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from segdcn.errors import Diverged, UserValueError
from segdcn.task import SegmentationTask

_log = logging.getLogger("segdcn")


class Look(NamedTuple):
    """What a step was made of; on a GPU the numbers are on their way until `arrived`."""

    step: int  # counted from 1
    rates: dict[str, float]  # by parameter group
    numbers: Tensor  # [lost, loss, norm of each group's gradients], on the CPU
    arrived: torch.cuda.Event | None


class Divergence(Callback):
    """Stop a run that diverges, or leave out the steps that would make it.

    A step is lost if its loss is infinite, NaN or above `loss_above` in any process, or a
    gradient is infinite or NaN. (With float16's loss scaling, whose first steps overflow by
    design and are left out by the scaler, only the loss counts.) All processes decide alike.

    The run ends with the step, the rate and the largest gradients. No checkpoint is written
    with or after such a step, nor with weights that are no numbers, nor after a validation
    whose loss is none: `last.ckpt` and `best.ckpt` stay what they were.

    A step that is left out changes no weights, no optimizer state and no statistics of
    normalisation, and counts as a step of the schedule.

    Args:
        loss_above: A training loss above this is lost too; null takes only what is infinite or NaN.
        skip: So many lost steps in a row are left out, each with a warning; the next one ends the
            run. 0 ends it at the first. On a GPU more than 0 has each step waited for.
    """

    def __init__(self, loss_above: float | None = 1e4, skip: int = 0) -> None:
        if loss_above is not None and not loss_above > 0:
            raise UserValueError(f"divergence.loss_above is {loss_above}; expected a loss above 0, or null")
        if skip < 0:
            raise UserValueError(f"divergence.skip is {skip}; expected 0 (none) or more")
        self.loss_above, self.skip = loss_above, skip
        self._loss: Tensor | None = None  # the largest of the batches of this step
        self._look: Look | None = None
        self._norms: dict[str, float] = {}  # of the last good step
        self._skipped = 0  # in a row
        self._statistics: list[Tensor] | None = None  # from before this step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep what the forward pass changes, once for all batches of a step."""
        if self.skip and self._statistics is None:
            self._statistics = [buffer.clone() for buffer in _network(pl_module).buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss."""
        # Lightning has divided it by the number of accumulated batches.
        loss = loss.detach() * trainer.accumulate_grad_batches
        self._loss = loss if self._loss is None else torch.maximum(self._loss, loss)  # NaN stays

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Look at loss and gradients, which are unscaled and not clipped yet."""
        self._settle()
        self._look = self._look_at(trainer, optimizer)
        # What is on a GPU is read with the next step, when waiting for it costs nothing.
        if self._look is None or (self._look.arrived is not None and not self.skip):
            return
        if self._settle():
            optimizer.zero_grad(set_to_none=True)  # optimizers pass over what has no gradient
            for buffer, before in zip(_network(pl_module).buffers(), self._statistics or [], strict=True):
                buffer.copy_(before)
        self._statistics = None

    def _look_at(self, trainer: Trainer, optimizer: torch.optim.Optimizer) -> Look | None:
        loss, self._loss = self._loss, None
        norms, rates = [], {}
        for group in optimizer.param_groups:
            norm = torch.nn.utils.get_total_norm([p.grad for p in group["params"] if p.grad is not None])
            norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # parts in several processes
            rates[group["name"]] = group["lr"]
        if loss is None:
            return None
        loss = loss.float().nan_to_num(nan=torch.inf, neginf=torch.inf)
        found = torch.stack([norm.to(loss) for norm in norms])
        lost = ~loss.isfinite() if self.loss_above is None else loss > self.loss_above
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            lost = lost | ~found.isfinite().all()
        shared = torch.stack([lost.to(loss), loss])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
        numbers = torch.cat([shared, found])
        arrived = None
        if numbers.is_cuda:
            numbers = numbers.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return Look(trainer.global_step + 1, rates, numbers, arrived)

    def _settle(self) -> bool:
        """Read what was looked at; say whether that step is to be left out.

        Raises:
            Diverged: It is lost, and is not left out.
        """
        look, self._look = self._look, None
        if look is None:
            return False
        if look.arrived is not None:
            look.arrived.synchronize()
        lost, loss, *values = look.numbers.tolist()
        norms = dict(zip(look.rates, values, strict=True))
        if not lost:
            self._norms, self._skipped = norms, 0
            return False
        what = self._describe(look, loss, norms)
        if self._skipped < self.skip:
            self._skipped += 1
            _log.warning(f"{what}; the step is left out ({self._skipped} of {self.skip} in a row)")
            return True
        again = f"; {self._skipped} steps before it were left out" if self._skipped else ""
        raise Diverged(
            f"{what}{again}; lower model.lr, set trainer.gradient_clip_val, or leave such steps out "
            "with divergence.skip"
        )

    def _describe(self, look: Look, loss: float, norms: dict[str, float]) -> str:
        """Say what is lost, where, at which rate, and which gradients are the largest."""
        if not math.isfinite(loss):
            what = "the loss is infinite or NaN"
        elif self.loss_above is not None and loss > self.loss_above:
            what = f"the loss is {loss:.4g}, more than divergence.loss_above, which is {self.loss_above:g},"
        else:
            what = "gradients are infinite or NaN"
        lost = {name for name, norm in norms.items() if not math.isfinite(norm)}
        largest = max(norms, key=lambda name: (name in lost, self._norms.get(name, 0.0) if lost else norms[name]))
        before = f", {self._norms[largest]:.3g} in the last good step" if largest in self._norms else ""
        return (
            f"{what} at step {look.step}, where the largest gradients are those of {largest} "
            f"(norm {norms[largest]:.3g}{before}; learning rate {look.rates[largest]:.3g})"
        )

    # What comes after a lost step that nobody has read yet

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a lost network is measured."""
        self._settle()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a lost network is saved as the best; checkpoints come after all other callbacks."""
        assert isinstance(pl_module, SegmentationTask)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        value, weight = pl_module.eval_loss.sums.tolist()
        if weight > 0 and not math.isfinite(value):
            raise Diverged(f"the validation loss is infinite or NaN after step {trainer.global_step}; lower model.lr")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop before a lost network is saved."""
        self._settle()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save what no run could go on from."""
        self._settle()
        weights = {name: value for name, value in checkpoint["state_dict"].items() if type(value) is Tensor}
        if lost := [name for name, value in weights.items() if not value.isfinite().all()]:
            raise Diverged(
                f"{len(lost)} weights are infinite or NaN after step {trainer.global_step}, the first is {lost[0]}; "
                "lower model.lr"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return how many steps in a row were left out."""
        return {"skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._skipped = state_dict["skipped"]


def _network(pl_module: LightningModule) -> torch.nn.Module:
    assert isinstance(pl_module, SegmentationTask)
    return pl_module.network
