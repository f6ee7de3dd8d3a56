"""`segdcn benchmark data`: how many training samples a second, decoded each time and from a cache."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from segdcn.data.base import SegmentationData
from segdcn.data.cache import Kind, SampleCache
from segdcn.data.describe import load_data
from segdcn.errors import UserValueError
from segdcn.timing import Timing, alternate, machine
from segdcn.verbs.report_file import check_report_file, write_report

FILES = "files"  # decoded each time
KINDS: list[Kind] = list(get_args(Kind))


def benchmark_data(
    data: str,
    root: str | None = None,
    caches: list[Kind] = KINDS,
    workers: int | None = None,
    samples: int = 64,
    images: int = 64,
    rounds: int = 5,
    cache_dir: str | None = None,
    json: str | None = None,
) -> None:
    """Time the reading of training samples: decoded each time, and from each kind of cache.

    Augmented batches are read as training reads them, by worker processes. All candidates read
    the same samples and take turns in one run; the table shows medians. The caches are made for
    the occasion and removed again; they and the images are small enough here to stay in the
    system's memory, so a slow disk shows only in longer runs.

    Example:
        segdcn benchmark data --data configs/data/cityscapes.yaml --root data/cityscapes

    Args:
        data: YAML of the data set.
        root: Folder of the data set; null is the YAML's.
        caches: Which caches to time beside the files.
        workers: Processes that read; 0 reads in the main process, null is the YAML's num_workers.
        samples: Crops to read in each round, rounded up to whole batches.
        images: Training images to read them from, at most.
        rounds: How often each candidate is timed; at least 2.
        cache_dir: Folder in which the disk cache is made; null is that of data.cache.
        json: Also write the figures to this file.

    Raises:
        UserValueError: A number does not fit, a cache has no room, or a file cannot be written.
        MissingFileError: The YAML or the data set is not there.
    """
    if rounds < 2 or samples < 1 or images < 1 or (workers is not None and workers < 0):
        raise UserValueError(
            f"rounds is {rounds}, samples {samples}, images {images} and workers {workers}; "
            "at least 2 rounds, 1 sample, 1 image and 0 workers are needed"
        )
    if json is not None:
        check_report_file(json)
    settings: dict[str, Any] = {"train_limit": images, "cache": None, "cache_dir": None}
    settings |= {} if root is None else {"root": root}
    settings |= {} if workers is None else {"num_workers": workers}
    sources = {name: load_data(data, **settings) for name in dict.fromkeys([FILES, *caches])}
    plain = sources[FILES]
    used = plain.train_dataset().samples

    with ExitStack() as stack, Progress(transient=True) as bar:
        filled = {}
        for kind in dict.fromkeys(caches):
            task = bar.add_task(f"filling the cache: {kind}", total=None)
            sources[kind].cached = cache = _cache(kind, cache_dir, plain.resize, stack)
            start = time.perf_counter()
            cache.fill(used, plain.decode, threads=max(1, plain.num_workers), quiet=True)
            filled[kind] = (time.perf_counter() - start, cache.num_bytes())
            bar.remove_task(task)
        per_round = -(-samples // plain.batch_size) * plain.batch_size
        task = bar.add_task("timing", total=(rounds + 1) * len(sources))
        calls = {name: _reader(source, per_round, partial(bar.advance, task)) for name, source in sources.items()}
        timings = alternate(calls, rounds)

    rows = [_row(name, timings, per_round, filled) for name in sources]
    where = (
        f"{machine(torch.device('cpu'))}, {plain.num_workers} workers; {len(used)} images, crops of "
        f"{plain.crop_size[0]}x{plain.crop_size[1]}; medians of {rounds} alternating rounds of {per_round} samples"
    )
    Console().print(_table(rows), where)
    if json is not None:
        write_report(json, {"machine": where, "rows": rows})


def _cache(kind: Kind, cache_dir: str | None, size: tuple[int, int] | None, stack: ExitStack) -> SampleCache:
    """Make an empty cache that goes with the stack."""
    parent = Path(cache_dir).expanduser() if kind == "disk" and cache_dir is not None else None
    cache = SampleCache(kind, f"benchmark-{os.getpid()}", parent, size)
    stack.callback(shutil.rmtree, cache.folder, ignore_errors=True)
    return cache


def _reader(source: SegmentationData, count: int, done: Callable[[], object]) -> Callable[[], object]:
    """Prepare the reading of `count` samples by a loader whose workers stay."""
    dataset = source.train_dataset()
    keys = [divmod(number, len(dataset)) for number in range(count)]  # (epoch, index)
    loader = source.loader(dataset, keys, source.batch_size, drop_last=False)

    def read() -> None:
        for _ in loader:
            pass
        done()

    return read


def _row(name: str, timings: dict[str, Timing], count: int, filled: dict[Kind, tuple[float, int]]) -> dict[str, Any]:
    seconds, size = filled.get(name, (None, None))  # type: ignore[call-overload]
    return {
        "source": name,
        "samples_per_second": count / timings[name].median,
        "factor": timings[FILES].median / timings[name].median,
        "spread": round(timings[name].spread, 3),
        "fill_seconds": seconds,
        "bytes": size,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="training samples, augmented and in batches",
        caption="factor: as many samples a second as when decoding each time",
        box=SIMPLE_HEAD,
    )
    table.add_column("read from", no_wrap=True)
    for name in ("samples/s", "factor", "spread", "filled in s", "MiB"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        cached = row["bytes"] is not None
        table.add_row(
            row["source"],
            f"{row['samples_per_second']:.1f}",
            f"[bold]{row['factor']:.2f}[/bold]" if cached else "",
            f"{row['spread']:.0%}",
            f"{row['fill_seconds']:.1f}" if cached else "",
            f"{row['bytes'] / 2**20:.0f}" if cached else "",
        )
    return table
