"""A resumed run of a number of steps goes on with the next epoch, as one of a number of epochs does."""

from pytorch_lightning import Callback, LightningModule, Trainer


class NextEpoch(Callback):
    """Have Lightning know that the epoch of a checkpoint was finished, also where `max_steps` is set.

    With `max_steps` it takes every resumed run for one that stopped within an epoch: it would go
    through the end of that epoch a second time, count epochs from one too few, and so read the
    samples in another order than the run that was not stopped.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask it again, as if there were no `max_steps`; this is the first hook after it has made up its mind."""
        loop = trainer.fit_loop
        epoch, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        finished = epoch.ready == epoch.processed  # type: ignore[attr-defined]  # of the class that counts epochs
        if not (loop.restarting and batches.is_last_batch and finished):
            return
        loop.epoch_loop.max_steps, steps = -1, loop.epoch_loop.max_steps
        loop.restarting = True  # a setter that knows better: only if the epoch is unfinished
        loop.epoch_loop.max_steps = steps
        loop.reset()
