"""Save and stop when the system asks for it."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from segdcn.errors import Stopped

# SIGTERM: batch systems and containers, before they kill. SIGUSR1: what schedulers can send some time ahead.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1 finish the batch, save `last.ckpt` and stop.

    The checkpoint lies in the middle of an epoch, or before a validation that is then run anew, and the run goes on
    from there as if it had never stopped. A second Ctrl-C stops at once and saves nothing. Lightning's own requeueing
    under SLURM, which saves wherever the signal comes and where `--ckpt_path last` does not look, is off.

    Args:
        path: The checkpoint to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signum = 0  # asked for and not yet done
        self._within_validation = False
        self._before: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have Lightning leave the signals alone under SLURM."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, now that Lightning has."""
        self._take_over()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, where there was no sanity check."""
        self._take_over()

    def _take_over(self) -> None:
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, also when the run ends like this."""
        self._give_back()

    def _give_back(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum
        with suppress(RuntimeError):  # the signal came in the middle of another print
            print(f"segdcn: {signal.Signals(signum).name}: saving and stopping after this batch", flush=True)

    # The moments at which everything that a checkpoint holds fits together

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Stop after a batch that ended in a step, unless a validation or the end of the epoch comes next."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return  # gradients are not in a checkpoint
        if loop.batch_progress.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher):  # type: ignore[arg-type]
            return
        if self._asked(trainer):
            # What Lightning would do next, and what would be missing in metrics.csv.
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            self._stop(trainer, save=True)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Stop within a validation; the checkpoint says that it has just begun."""
        if not self.signum or trainer.world_size > 1:
            return  # of several processes some have fewer batches, so they cannot agree here; they do when they train
        if trainer.sanity_checking:
            self._stop(trainer, save=False)
        elif trainer.state.fn == "fit":
            if 0 <= trainer.max_steps <= trainer.global_step:
                return  # the last validation of the run, which Lightning would not run again
            if trainer.fit_loop.epoch_loop._should_accumulate():
                return
            self._within_validation = True
            self._stop(trainer, save=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between epochs; LastCheckpoint has saved at the end of the one before."""
        if self._asked(trainer):
            self._stop(trainer, save=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint from within a validation say that it has just begun."""
        if not self._within_validation:
            return
        begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}  # so Lightning knows one that was cut short
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        progress.update(total=begun, current=dict(begun), is_last_batch=False)

    def _asked(self, trainer: Trainer) -> bool:
        """Whether any process was asked to stop."""
        if trainer.world_size > 1:
            asked = torch.tensor(self.signum, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            self.signum = int(asked)
        return self.signum != 0

    def _stop(self, trainer: Trainer, save: bool) -> NoReturn:
        if save:
            trainer.save_checkpoint(self.path)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            # It looks after the processes it has started, and kills this one within seconds of the first that ends
            # with another code than 0, as all do now: in the midst of closing W&B, say.
            launcher.procs.clear()
        raise Stopped(self.signum)
