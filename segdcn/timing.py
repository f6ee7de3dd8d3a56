"""Timing, for every benchmark: alternating, medians, so that ratios can be trusted.

Shared machines are noisy and clocks wander. Candidates therefore take turns, so that a slow
minute hits all of them, and what is compared are medians of one run.
"""

import ctypes
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

HEAD_START = 1_000_000  # cycles of a GPU's clock: about half a millisecond


@dataclass(frozen=True)
class Timing:
    """Seconds of one candidate, in each round; at least two."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Middle of all rounds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median: 0.1 means that half of the rounds lay within 10 %."""
        lower, _, upper = quantiles(self.seconds, n=4)
        return (upper - lower) / self.median

    def percentile(self, percent: int) -> float:
        """Seconds that so many percent of the rounds did not pass, interpolated; 1 to 99."""
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


def alternate(
    candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device | None = None
) -> dict[str, Timing]:
    """Time candidates in turn, after one call each that is not counted.

    Each round begins with the next candidate, so that none always follows the same one.

    Args:
        candidates: What to call, by name.
        rounds: How often each is timed, at least 2.
        device: Where they compute; on a GPU its own clock measures, from the call to the end of its work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    measure = _device_seconds if device is not None and device.type == "cuda" else _host_seconds
    for call in candidates.values():
        measure(call)
    names = list(candidates)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(measure(candidates[name]))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _host_seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _device_seconds(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    # The GPU waits while the host queues the work, or the host's time would count for short work.
    torch.cuda._sleep(HEAD_START)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Measure the bytes that a call needs beyond what is held before it and what it returns.

    On the CPU that is the process's resident memory, in pages that were touched, whoever
    allocated them; on a GPU what torch's allocator handed out.

    Args:
        call: What to measure; it returns a tensor, an array, or a sequence of them. Call it once
            before, so that what libraries keep for good is not counted.
        device: Where it computes.

    Returns:
        Bytes; None where the operating system does not tell (only Linux does).
    """
    peak = PeakMemory(device)
    peak.start()
    result = call()
    most = peak.most()
    return None if most is None or peak.held is None else max(0, most - peak.held - _size(result))


class PeakMemory:
    """Watches the memory of this process, or what torch's allocator hands out of a GPU's.

    Args:
        device: Where is computed.

    Attributes:
        held: Bytes in use when it started; None where the operating system does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._files = 0
        self.held: int | None = None

    def start(self) -> None:
        """Forget earlier peaks."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self.held = torch.cuda.memory_allocated(self._device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # pages kept from earlier calls would hide new use
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
            self.held, self._files = _status("VmRSS"), _status("RssFile")
        except (OSError, AttributeError):
            self.held = None

    def most(self) -> int | None:
        """Give the most bytes in use at a time since the start; None where the operating system does not tell."""
        if self.held is None:
            return None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return torch.cuda.max_memory_allocated(self._device)
        # Pages of libraries that had been given up, where memory is short, and come back: no need of what ran.
        return _status("VmHWM") - max(0, _status("RssFile") - self._files)


def _status(field: str) -> int:
    """Read a field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _size(result: Any) -> int:
    """Return the bytes of a tensor, an array, or a sequence of them."""
    if isinstance(result, (tuple, list)):
        return sum(map(_size, result))
    return int(result.nbytes)


def machine(device: torch.device) -> str:
    """Name the processor or GPU that figures come from, and the threads that were used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"
