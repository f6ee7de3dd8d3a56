"""Stop a run that no longer gets better."""

from dataclasses import dataclass

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping

from segdcn.errors import UserValueError


@dataclass
class EarlyStop:
    """When to stop early.

    Args:
        monitor: A measure of the validation, such as val/mIoU, which shall rise; what ends in
            `loss` shall fall.
        patience: Validations in a row without a new best after which training stops.
        min_delta: By how much more than the best so far counts as better.
    """

    monitor: str = "val/mIoU"
    patience: int = 10
    min_delta: float = 0.0


class StopEarly(EarlyStopping):
    """Lightning's EarlyStopping, judging after each validation and saying why it stopped.

    Its count is in the checkpoints: a resumed run is as patient as one that was not stopped. The
    schedule of the learning rate knows nothing of it and is cut off where training stops.
    """

    def __init__(self, when: EarlyStop) -> None:
        if when.patience < 1 or when.min_delta < 0:
            raise UserValueError(
                f"early_stopping has patience {when.patience} and min_delta {when.min_delta}; expected 1 or more "
                "validations, and 0 or more"
            )
        super().__init__(
            monitor=when.monitor,
            patience=when.patience,
            min_delta=when.min_delta,
            mode="min" if when.monitor.endswith("loss") else "max",
            check_on_train_epoch_end=False,
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge; refuse a measure that the validation does not take, if possible before training."""
        logged = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
        # The few images tried before training do not hold every class.
        absent_class = trainer.sanity_checking and self.monitor.startswith("val/IoU/")
        if self.monitor not in logged and not absent_class:
            others = [name for name in logged if not name.startswith("val/IoU/")]
            raise UserValueError(
                f"early_stopping.monitor is {self.monitor}; expected {', '.join(others)} or val/IoU/<class>"
            )
        super().on_validation_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why, if this is what ended training."""
        if self.wait_count >= self.patience and trainer.is_global_zero:
            print(
                f"segdcn: stopped early: no better {self.monitor} than {self.best_score:.4f} "
                f"in {self.wait_count} validation{'s' * (self.wait_count > 1)}",
                flush=True,
            )
