"""Who works on which trial, told through files, so that it holds across hosts.

A worker that takes a trial writes a claim, and touches it while it works. A claim that nobody has
touched for a while belongs to a worker that died. On the same machine the process ids tell at once.

Times are compared on the file server's clock alone: hosts may disagree by minutes.
"""

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from optuna.storages.journal import JournalFileOpenLock

# Seconds without a sign of life; a network disk may show a file's time a minute late.
LEASE = 180.0
# Seconds after which a lock is taken from a process that died while it held it.
LOCK_GRACE = 30

State = Literal["free", "held", "dead"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `<path>.lock`, also against other hosts."""
    lock = JournalFileOpenLock(str(path), grace_period=LOCK_GRACE)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Claims:
    """The claims of one worker among those of all.

    Args:
        folder: Where claims lie; the same for all workers.
        lease: Seconds after which an untouched claim is dead.
    """

    def __init__(self, folder: Path, lease: float = LEASE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lease = lease
        self._worker = secrets.token_hex(8)

    def take(self, number: int) -> None:
        """Claim a trial, which must be free or dead; the caller holds the lock."""
        self._write(number, None)

    def beat(self, number: int, child: int | None = None) -> bool:
        """Give a sign of life; False if the trial has been taken from this worker.

        Args:
            number: The trial.
            child: Process that trains, which has to end too before the trial is free.
        """
        held = self._read(number)
        if held is None or held[0]["worker"] != self._worker:
            return False
        if held[0]["child"] != child:
            self._write(number, child)
        else:
            os.utime(self._path(number))
        return True

    def release(self, number: int) -> None:
        """Give a trial up, for another worker to go on with at once."""
        self._path(number).unlink(missing_ok=True)

    def state(self, number: int) -> State:
        """Tell whether a trial is free, held by a living worker, or was left by one that died."""
        held = self._read(number)
        if held is None:
            return "free"
        claim, touched = held
        if self._now() - touched > self._lease:
            return "dead"
        if claim["machine"] == _machine() and not any(map(_is_alive, (claim["pid"], claim["child"]))):
            return "dead"
        return "held"

    def holder(self, number: int) -> str:
        """Name the worker that holds a trial."""
        held = self._read(number)
        return f"{held[0]['host']}, process {held[0]['pid']}" if held else "nobody"

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}.json"

    def _write(self, number: int, child: int | None) -> None:
        mine = {"worker": self._worker, "host": socket.gethostname(), "pid": os.getpid(), "child": child}
        beside = self._folder / f"{number:03d}.{self._worker}"
        beside.write_text(json.dumps(mine | {"machine": _machine()}))
        beside.replace(self._path(number))

    def _read(self, number: int) -> tuple[dict, float] | None:
        try:
            with self._path(number).open() as file:  # opening asks the file server for the present state
                return json.load(file), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        clock = self._folder / "clock"
        clock.touch()
        return clock.stat().st_mtime


def _machine() -> str:
    """Name what process ids are valid in: this boot of this machine, and the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
