"""What training costs: seconds of a step, and memory."""

import time
from collections import deque
from statistics import median
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from segdcn.timing import PeakMemory

KEPT = 1000  # steps whose seconds are kept


class StepCost(Callback):
    """Measure training steps, and keep the figures in the checkpoints for whoever reads those.

    A step is what happens to one batch once it is on its device: forward, backward, optimizer. Not
    in it: waiting for data, validation, checkpoints. On a GPU its own clock measures.
    """

    def __init__(self) -> None:
        self.seconds: deque[float] = deque(maxlen=KEPT)
        self.memory: int | None = None
        self._began: Any = None
        self._unread: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._peak: PeakMemory | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        if self._peak is None:
            self._peak = PeakMemory(pl_module.device)
            self._peak.start()
        self._began = _now(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it."""
        ended = _now(pl_module.device)
        if isinstance(ended, float):
            self.seconds.append(ended - self._began)
        else:
            self._unread.append((self._began, ended))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what training needed so far; validation, on whole images, is another matter."""
        self._read()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read before a checkpoint is saved, where no validation came before."""
        self._read()

    def _read(self) -> None:
        if self._peak is not None:
            most = self._peak.most()  # waits for a GPU, so its clocks can be read
            self.memory = self.memory if most is None else max(most, self.memory or 0)
            self._peak = None
        self.seconds.extend(start.elapsed_time(end) / 1000 for start, end in self._unread)
        self._unread = []

    def state_dict(self) -> dict[str, Any]:
        """Keep the seconds for a run that goes on, and the figures for readers."""
        middle = median(self.seconds) if self.seconds else None
        return {"seconds": list(self.seconds), "memory": self.memory, "seconds_per_step": middle}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what an earlier start measured."""
        self.seconds.extend(state_dict["seconds"])
        self.memory = state_dict["memory"]


def _now(device: torch.device) -> float | torch.cuda.Event:
    """Read the clock of the host, or note the moment in a GPU's queue."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
