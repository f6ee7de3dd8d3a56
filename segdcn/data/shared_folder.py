"""A folder that several processes use and the last of them removes, even if some were killed."""

import errno
import fcntl
import os
import shutil
import weakref
from pathlib import Path

LOCK = "lock"


class Hold:
    """A process's claim on a folder; released when it is dropped, and when the process ends.

    The claim is a shared lock on a file in the folder, so the system takes it back from a process that is killed.
    The folder is made if need be, and folders beside it that nobody claims any more are removed.

    Raises:
        OSError: The folder above belongs to somebody else, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.parent.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(folder.parent))
        self.release = weakref.finalize(self, _release, _claim(folder), folder, os.getpid())
        for other in folder.parent.iterdir():
            if other != folder:
                remove_unclaimed(other)


def remove_unclaimed(folder: Path) -> None:
    """Remove a folder unless a process claims it."""
    try:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # no folder, or no longer
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_lock_of(descriptor, folder):
            # Renamed first: whoever comes now makes a new one.
            gone = folder.with_name(f"{folder.name}.{os.getpid()}")
            folder.rename(gone)
            shutil.rmtree(gone)
    except OSError:  # claimed by another process, or being removed by one
        pass
    finally:
        os.close(descriptor)


def _claim(folder: Path) -> int:
    while True:
        folder.mkdir(exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # removed just now
            continue
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_lock_of(descriptor, folder):
            return descriptor
        os.close(descriptor)  # its last user removed the folder while this process waited


def _is_lock_of(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def _release(descriptor: int, folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # workers that were forked have the claim too, but no say in the matter
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for them too: closing alone would leave it theirs
        os.close(descriptor)
        remove_unclaimed(folder)
