"""Which sample comes when, how samples become a batch, and how a worker's error gets out."""

import ctypes
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NotRequired, TypedDict

import cv2
import numpy as np
import torch
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Sampler, default_collate

IGNORE_INDEX = 255
# Of malloc.h: what is larger than the first is not kept when freed, nor is free memory beyond the second.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1


class Item(TypedDict):
    """One sample: image (3, H, W) float32 normalised, labels (H, W) int64, name; instances (H, W) int32."""

    image: torch.Tensor
    labels: torch.Tensor
    name: str
    instances: NotRequired[torch.Tensor]


class Batch(TypedDict):
    """The batch contract: image (B, 3, H, W) float32 normalised, labels (B, H, W) int64, 255 = ignore.

    Beside them the (height, width) of each image before padding and, in evaluation of a set that has
    them, the instance maps (B, H, W) int32, 0 being no object.
    """

    image: torch.Tensor
    labels: torch.Tensor
    name: list[str]
    size: list[tuple[int, int]]
    instances: NotRequired[torch.Tensor]


class EpochSampler(Sampler[tuple[int, int]]):
    """Yield `(epoch, index)` for every sample of an epoch.

    The epoch travels with the index, so that a worker which outlives epochs
    (`persistent_workers`) still knows which one a sample is for. The order is a
    permutation drawn from (seed, epoch) alone: neither the global random state nor the
    number of workers has a say. Of several processes each takes every `processes`-th key of this one permutation, the
    last few left out where they cannot be divided, so that all have equally many.

    Args:
        size: Number of samples.
        seed: Seed of the order.
        shuffle: False keeps the order of the list.
        epoch: Epoch of the first pass. A resumed run has to name it here, because
            Lightning starts the workers before it calls `set_epoch`.
        rank: This process.
        processes: How many processes share the samples.

    Attributes:
        start: How many keys the next pass leaves out at its beginning; the pass sets it to 0.
    """

    def __init__(
        self, size: int, seed: int = 0, shuffle: bool = True, epoch: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, epoch
        self.rank, self.processes = rank, processes
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass (Lightning calls this before each)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.processes

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        start, self.start = self.start, 0
        order = np.arange(self.size)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.size)
        mine = order[self.rank :: self.processes][: len(self)]
        return iter([(epoch, int(index)) for index in mine[start:]])


class PadAndStack:
    """Collate items of any size: pad at the bottom and on the right, then stack.

    The batch gets the largest height and width among its items, rounded up to a multiple
    of `size_divisor`. Padding is 0 in the image (the mean colour, as images are
    normalised) and 255 in the labels, so it counts neither in the loss nor in a metric.

    Args:
        size_divisor: Sizes the network takes are multiples of this, in pixels.
    """

    def __init__(self, size_divisor: int) -> None:
        self.size_divisor = size_divisor

    def __call__(self, items: list[Item]) -> Batch:
        """Return the batch of these items."""
        height = self._rounded_up(max(item["image"].shape[-2] for item in items))
        width = self._rounded_up(max(item["image"].shape[-1] for item in items))
        images, labels, instances, sizes = [], [], [], []
        for item in items:
            h, w = item["image"].shape[-2:]
            margins = (0, width - w, 0, height - h)
            sizes.append((h, w))
            padded = any(margins)
            images.append(pad(item["image"], margins) if padded else item["image"])
            labels.append(pad(item["labels"], margins, value=IGNORE_INDEX) if padded else item["labels"])
            if "instances" in item:
                instances.append(pad(item["instances"], margins) if padded else item["instances"])
        # Not torch.stack: in a worker, default_collate stacks in shared memory, which saves a copy.
        batch: Batch = {
            "image": default_collate(images),
            "labels": default_collate(labels),
            "name": [item["name"] for item in items],
            "size": sizes,
        }
        if len(instances) == len(items):
            batch["instances"] = default_collate(instances)
        return batch

    def _rounded_up(self, length: int) -> int:
        return -(-length // self.size_divisor) * self.size_divisor


class Loader(DataLoader):
    """A DataLoader for `start_worker`, whose workers are made so that it can do its work."""

    def __iter__(self) -> Any:
        """Make the workers, or use those that are there, and give the batches."""
        # Before workers fork: a child of a process whose OpenCV has threads deadlocks on its first call.
        cv2.setNumThreads(1)
        # They inherit what is blocked, and so do the threads that torch starts in them before start_worker: one that
        # did not block SIGTERM would get it, and the worker would end.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_when_told_by(process: int) -> None:
    """End this process at a SIGTERM of that one, which ends its workers so, and at nobody else's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # where no Loader has

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def start_worker(worker_id: int) -> None:
    """Keep a worker to one thread, to its work, and what it frees to the worker.

    A signal that is meant for the run may come to all of its processes: from a terminal, from SLURM. The run finishes
    its batch and saves, for which it needs its workers; they end when it does.

    OpenCV would start a thread per core in each worker. And glibc would give the memory of each batch back to the
    system, to take it anew page by page for the next, which costs a cached sample a sixth of its time.
    """
    for signum in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    _leave_when_told_by(os.getppid())
    cv2.setNumThreads(1)
    with suppress(AttributeError, OSError):  # another C library has other habits
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def original_message(error: BaseException) -> str:
    """Return the message an error had before a DataLoader worker handed it on.

    Torch rebuilds a worker's exception with the same class and the whole traceback as its
    message. The last line that names the class carries the message itself. Any other
    error gives its own message unchanged.

    Example:
        >>> original_message(ValueError("crop_size is 0"))
        'crop_size is 0'
    """
    text = str(error)
    if not re.match(r"Caught \w+ in \w+", text) or "Original Traceback" not in text:
        return text
    parts = re.split(rf"^(?:\w+\.)*{type(error).__name__}: ", text, flags=re.MULTILINE)
    return parts[-1].strip() if len(parts) > 1 else text
