"""Progress: a bar on a terminal, lines in a log."""

import time
from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor

LINE_EVERY = 60.0  # seconds without a line after which a log says how far an epoch is


class Bar(RichProgressBar):
    """Lightning's rich bar, counting epochs from 1 and showing loss and mIoU."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=4)
        self._shown_at = 0.0

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {_count(current_epoch, self.trainer.max_epochs)}".ljust(len(self.validation_description))

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Leave out the batches per second: with them the metrics do not fit into 80 columns."""
        return super().configure_columns(trainer)[:-1]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Give what stands behind the bar."""
        logged = trainer.callback_metrics
        shown = {"loss": "train/loss", "mIoU": "val/mIoU"}
        return {label: logged[key].item() for label, key in shown.items() if key in logged}

    def _update_metrics(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Reading the loss waits for the GPU; once per refresh is enough.
        if time.monotonic() - self._shown_at > 1 / self.refresh_rate:
            self._shown_at = time.monotonic()
            super()._update_metrics(trainer, pl_module)


class Lines(Callback):
    """One line per epoch, for a log: loss (mean over the epoch), mIoU, time and time left.

    An epoch, or an evaluation, of more than a minute also says every minute how far it is.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._run_started = time.monotonic()
        self._first_step = trainer.global_step
        # A run that goes on from the middle of an epoch gets no on_train_epoch_start.
        self._start_epoch()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock and mean."""
        self._start_epoch()

    def _start_epoch(self) -> None:
        self._epoch_started = self._line_at = time.monotonic()
        self._loss_sum: Tensor | float = 0.0
        self._batches = 0
        self._validated = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add to the mean; say something once a minute."""
        # Lightning has divided the loss by the number of accumulated batches.
        self._loss_sum = self._loss_sum + outputs["loss"].detach() * trainer.accumulate_grad_batches
        self._batches += 1
        if self._a_minute_passed() and batch_idx + 1 < trainer.num_training_batches:
            self._print(trainer, f"  batch {batch_idx + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's line."""
        # The metrics keep the mIoU of an earlier epoch where this one has no validation.
        miou = trainer.callback_metrics.get("val/mIoU") if self._validated else None
        measured = "" if miou is None else f"  mIoU {miou.item():.4f}"
        seconds = time.monotonic() - self._epoch_started
        self._print(trainer, f"{measured}  {seconds:.1f} s")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the minute."""
        self._line_at = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far the validation is, once a minute."""
        self._say_how_far(trainer, "validation", batch_idx, trainer.num_val_batches[dataloader_idx])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the epoch has an mIoU of its own."""
        self._validated = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the minute."""
        self._line_at = time.monotonic()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Say how far the test is, once a minute."""
        self._say_how_far(trainer, "test", batch_idx, trainer.num_test_batches[dataloader_idx])

    def _say_how_far(self, trainer: Trainer, what: str, batch_idx: int, batches: float) -> None:
        """Say how far an evaluation is, once a minute."""
        if trainer.is_global_zero and self._a_minute_passed():
            print(f"{what}  batch {batch_idx + 1}/{batches}", flush=True)

    def _a_minute_passed(self) -> bool:
        now = time.monotonic()
        if now - self._line_at < LINE_EVERY:
            return False
        self._line_at = now
        return True

    def _print(self, trainer: Trainer, more: str) -> None:
        """Print the epoch, the loss so far, `more`, and the time left at the pace of this run."""
        if not trainer.is_global_zero:
            return
        loss = float(torch.as_tensor(self._loss_sum)) / max(1, self._batches)
        done = trainer.global_step - self._first_step
        left = trainer.estimated_stepping_batches - trainer.global_step
        eta = ""
        if done and left > 0:
            seconds = left * (time.monotonic() - self._run_started) / done
            eta = f"  about {timedelta(seconds=round(seconds))} left"
        epoch = _count(trainer.current_epoch, trainer.max_epochs)
        print(f"epoch {epoch}  loss {loss:.4f}{more}{eta}", flush=True)


def _count(epoch: int, epochs: int | None) -> str:
    """Say which epoch of how many, counted from 1; `epochs` may be open."""
    of = f"/{epochs}" if epochs is not None and epochs > 0 else ""
    return f"{epoch + 1}{of}"
