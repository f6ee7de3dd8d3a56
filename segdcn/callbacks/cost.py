"""What logging costs."""

import time
from collections.abc import Mapping

from pytorch_lightning import Callback, LightningModule, Trainer

from segdcn.stopwatch import Stopwatch


class Cost(Callback):
    """Tell what share of the time of `fit` went into logging.

    Logged with every validation: `time/logging/<part>`, the seconds so far, and `time/logging_share`.
    What a GPU had still to do when a part began to wait for it counts for that part.

    Args:
        parts: Stopwatches of what logs, by name.
    """

    def __init__(self, parts: Mapping[str, Stopwatch]) -> None:
        self.parts = dict(parts)
        self.seconds = 0.0  # of the whole of fit, once it has ended
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what it was so far."""
        if self._started and not trainer.sanity_checking:
            so_far = {f"time/logging/{name}": part.seconds for name, part in self.parts.items()}
            share = self._spent() / (time.perf_counter() - self._started)
            pl_module.log_dict(so_far | {"time/logging_share": share}, sync_dist=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the clock, when all has drawn its last pictures."""
        self.seconds = time.perf_counter() - self._started

    def _spent(self) -> float:
        return sum(part.seconds for part in self.parts.values())

    def told(self) -> str:
        """Say it, with the parts that took longest first."""
        longest = sorted(self.parts.items(), key=lambda part: -part[1].seconds)
        parts = ", ".join(f"{name.replace('_', ' ')} {part.seconds:.1f}" for name, part in longest)
        return f"{self._spent():.1f} s, {self._spent() / self.seconds:.1%} of {self.seconds:.0f} s ({parts})"
