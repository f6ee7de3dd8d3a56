"""A cache of decoded samples: one file each, from which only the pixels that are looked at are read.

A file holds a line of JSON (the shape, and size and time of the files it was decoded from), then the image
(H, W, 3) and the labels (H, W) in bytes. It is mapped into memory, so that workers and runs share one copy
of what they read, however they were started. A file is written under another name and renamed: what is
there under its name is whole.
"""

import hashlib
import inspect
import json
import math
import mmap
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import PIL
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn.data import files
from segdcn.data.memory import available_memory
from segdcn.data.shared_folder import Hold
from segdcn.errors import UserValueError

if TYPE_CHECKING:
    from segdcn.data.base import Sample, SegmentationData

Kind = Literal["ram", "disk"]
FORMAT = 1  # raise when a file means something else than before
HEAD = 512  # bytes before the pixels
ABANDONED = 3600  # seconds after which a file that was begun will not be finished
UNUSED = 90 * 24 * 3600  # seconds after which a folder on disk that no run has opened is removed
# Of what is free: a run needs memory beside the cache, and a disk filled to the brim stops other programs.
USABLE = {"ram": 0.8, "disk": 0.95}


class Decoded(NamedTuple):
    """A sample's image (H, W, 3) uint8 and labels (H, W) uint8; read only where they are mapped."""

    image: np.ndarray
    labels: np.ndarray


class SampleCache:
    """Decoded samples in a folder.

    Copies that are pickled for workers only read.

    Args:
        kind: `disk`, or `ram`: in shared memory, until the last process that uses it ends.
        name: Of the folder, from `folder_name`.
        parent: Where the folder is made; null is `default_parent(kind)`. On disk, folders of other caches
            there that no run has opened for 90 days are removed.
        size: (height, width) of every sample when it is decoded; null is that of its picture.

    Raises:
        UserValueError: The folder cannot be made or written.
    """

    def __init__(self, kind: Kind, name: str, parent: Path | None = None, size: tuple[int, int] | None = None) -> None:
        self.kind, self.size = kind, size
        self.folder = (parent or default_parent(kind)) / name
        try:
            if kind == "ram":
                self._hold = Hold(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
            if kind == "disk":
                os.utime(self.folder)  # it is in use
                _remove_unused(self.folder.parent)
        except OSError as error:
            cure = "; set --data.cache_dir" if kind == "disk" else ""
            raise UserValueError(f"data.cache: {self.folder} cannot be written ({error.strerror}){cure}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"kind": self.kind, "size": self.size, "folder": self.folder}

    def open(self, sample: "Sample") -> Decoded | None:
        """Map a sample's pixels; None if they are not here or its files have changed since."""
        try:
            with self._path(sample).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            head = json.loads(mapped[:HEAD])
            height, width = head["shape"]
            if head["files"] != _state_of_files(sample) or len(mapped) != HEAD + 4 * height * width:
                return None
        except (OSError, ValueError, KeyError, TypeError):  # absent, empty, or nothing that `_add` wrote
            return None
        pixels = np.frombuffer(mapped, np.uint8, offset=HEAD)
        border = 3 * height * width
        return Decoded(pixels[:border].reshape(height, width, 3), pixels[border:].reshape(height, width))

    def check_space(self, samples: Iterable["Sample"]) -> None:
        """Refuse to cache more than there is room for.

        Raises:
            UserValueError: What is missing does not fit.
        """
        self._check_space(self._missing(samples))

    def fill(
        self, samples: Iterable["Sample"], decode: Callable[["Sample"], Decoded], threads: int = 1, quiet: bool = False
    ) -> None:
        """Decode what is missing or has changed; several processes may do so at once.

        Args:
            samples: What should be in the cache.
            decode: Reads a sample from its files.
            threads: How many samples are decoded at a time.
            quiet: Show no progress.

        Raises:
            UserValueError: It does not fit.
            UserError: A file is missing or damaged.
        """
        missing = self._missing(samples)
        if not missing:
            return
        self._check_space(missing)
        self._remove_abandoned()
        # Another process that fills the cache takes another order, and finds what this one has done.
        random.Random().shuffle(missing)
        columns = (TextColumn("decoding into the cache"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=quiet) as bar, ThreadPoolExecutor(threads) as pool:
            task = bar.add_task("decoding", total=len(missing))
            for _ in pool.map(lambda sample: self._add(sample, decode), missing):
                bar.advance(task)

    def num_bytes(self) -> int:
        """Return the bytes of all entries."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def _missing(self, samples: Iterable["Sample"]) -> list["Sample"]:
        """List what has to be decoded, each once."""
        return [
            sample for sample in {self._path(sample): sample for sample in samples}.values() if not self.open(sample)
        ]

    def _check_space(self, missing: list["Sample"]) -> None:
        needed = sum(HEAD + 4 * (math.prod(self.size) if self.size else _num_pixels(sample)) for sample in missing)
        free = float(shutil.disk_usage(self.folder).free)
        if self.kind == "ram":
            free = min(free, available_memory())
        share = USABLE[self.kind]
        if needed > share * free:
            cure = "--data.cache disk" if self.kind == "ram" else "--data.cache_dir to a folder on a larger disk"
            raise UserValueError(
                f"data.cache {self.kind} needs {_told(needed)} for {len(missing)} samples in {self.folder}, but may "
                f"take {_told(share * free)}, {share:.0%} of what is free; set {cure}, or --data.cache null"
            )

    def _add(self, sample: "Sample", decode: Callable[["Sample"], Decoded]) -> None:
        if self.open(sample):
            return
        state = _state_of_files(sample)  # before they are read: if they change meanwhile, the file is stale
        image, labels = decode(sample)
        head = json.dumps({"shape": labels.shape, "files": state}).encode().ljust(HEAD)
        part = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                part = Path(file.name)
                file.write(head + image.tobytes() + labels.tobytes())
            part.replace(self._path(sample))
        except OSError as error:
            raise UserValueError(f"data.cache: {self.folder} cannot be written ({error.strerror})") from error
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def _remove_abandoned(self) -> None:
        """Remove what processes that were killed had begun to write."""
        for part in self.folder.glob("*.part"):
            try:
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
            except FileNotFoundError:  # finished or removed by another process
                pass

    def _path(self, sample: "Sample") -> Path:
        name = "\0".join(os.path.abspath(path) for path in (sample.image, sample.labels))
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:32]


def default_parent(kind: Kind) -> Path:
    """Return where caches lie: shared memory, or the user's cache folder; never in a data set's own tree.

    Raises:
        UserValueError: There is no shared memory to be seen as files.
    """
    if kind == "disk":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segdcn"
    shared = Path("/dev/shm")
    if not shared.is_dir():
        raise UserValueError(f"data.cache ram needs {shared}, which this system does not have; set --data.cache disk")
    return shared / f"segdcn-{os.getuid()}"


def folder_name(data: "SegmentationData") -> str:
    """Name the folder by all that decoding depends on beside the files: code, and the data set's own settings.

    Who changes how labels are mapped, in a setting or in the code of a data set, gets another folder.
    """
    with np.printoptions(threshold=sys.maxsize):  # all of a table, not its ends
        digest = hashlib.sha256(repr([FORMAT, PIL.__version__, data.resize, data.own_settings()]).encode())
    parts: list[Any] = [files, *(kind for kind in type(data).__mro__ if hasattr(kind, "own_settings"))]
    for part in parts:
        try:
            digest.update(Path(inspect.getfile(part)).read_bytes())
        except (TypeError, OSError):  # a class typed in at a prompt has no file
            digest.update(repr(part).encode())
    return f"{type(data).__name__}-{digest.hexdigest()[:16]}"


def _remove_unused(parent: Path) -> None:
    """Remove the folders of caches, and nothing else, that no run has opened for long."""
    for folder in parent.iterdir():
        try:
            if (
                re.fullmatch(r"\w+-[0-9a-f]{16}", folder.name)
                and time.time() - folder.stat().st_mtime > UNUSED
                and all(re.fullmatch(r"[0-9a-f]{32}|\w+\.part", entry.name) for entry in folder.iterdir())
            ):
                shutil.rmtree(folder)
        except OSError:  # another user's, or being removed by another process
            pass


def _state_of_files(sample: "Sample") -> list[list[int]]:
    """Return size and time of a sample's files, which change when a file is replaced."""
    return [[state.st_size, state.st_mtime_ns] for state in (path.stat() for path in (sample.image, sample.labels))]


def _num_pixels(sample: "Sample") -> int:
    """Read an image's size from its head; one that cannot be read is refused when it is decoded."""
    try:
        with Image.open(sample.image) as picture:
            return picture.width * picture.height
    except OSError:
        return 0


def _told(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
