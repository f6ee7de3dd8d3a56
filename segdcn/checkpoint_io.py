"""Write and read checkpoint files so that no moment can spoil one."""

import errno
import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from segdcn.errors import NotWritten

# What the operating system says when there is no room: no space left, quota exceeded, file too large.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class SafeCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint beside the old one, then rename it over that.

    The file is on the disk before it gets its name, so whoever reads it finds the old one or the new one, whole,
    also after a kill -9 or a power failure in the middle. Lightning's own way writes to the temporary folder first,
    which may be another disk, and holds the whole file in memory. Reading never executes what a file holds.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            NotWritten: The disk is full or refuses; the previous checkpoint is as it was.
        """
        target = Path(path)
        beside = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
            _flush_folder(target.parent)
        except (OSError, RuntimeError) as error:
            failure = _system_error(error)
            beside.unlink(missing_ok=True)
            if failure is None:
                raise
            full = failure.errno in NO_ROOM
            kept = "; the one before it is untouched" if target.is_file() else ""
            raise NotWritten(
                f"{target} could not be written: {'the disk is full' if full else failure.strerror}{kept}"
                f"{'; make room' if full else ''}"
            ) from error
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = True) -> Any:
        """Read a checkpoint; `weights_only` is true whatever is asked for."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)


def _system_error(error: BaseException | None) -> OSError | None:
    """Find the operating system's word behind an error: torch wraps it into one of its own."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _flush_folder(folder: Path) -> None:
    """Have the new name on the disk too, where the system can say so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
