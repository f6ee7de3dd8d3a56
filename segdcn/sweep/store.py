"""A local sweep's folder: the file that it is a sweep of, and the journal of its trials."""

import os
from pathlib import Path

import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from segdcn.errors import InvalidDataError, UserValueError
from segdcn.sweep.claims import locked
from segdcn.sweep.file import SweepFile
from segdcn.whole_file import write_whole

# What a folder is compared by: a sweep that goes on must still be the same.
SAME = ("method", "metric", "parameters", "early_terminate", "program", "command")
# What a worker that was killed in the middle of keep_file leaves.
UNFINISHED = ("sweep.lock", "sweep.yaml.part")


def keep_file(folder: Path, sweep: SweepFile) -> None:
    """Put the sweep file into a new folder, or compare it with the one that is there."""
    kept = folder / "sweep.yaml"
    if not kept.exists():
        if foreign := sorted(path.name for path in folder.iterdir() if path.name not in UNFINISHED):
            raise UserValueError(
                f"{folder} holds files that are no sweep's, such as {foreign[0]}; choose another --folder"
            )
        write_whole(kept, yaml.safe_dump(sweep.config, sort_keys=False))
        return
    there = yaml.safe_load(kept.read_text())
    for key in SAME:
        if there.get(key) != sweep.config.get(key):
            raise UserValueError(f"{folder} holds a sweep with another {key}; choose another --folder to start anew")


def open_journal(path: Path) -> JournalStorage:
    """Open the journal, made if there is none."""
    # Not Optuna's default lock, a symbolic link, which not every disk has.
    with locked(path):
        _cut_torn_line(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
    except (ValueError, KeyError) as error:
        raise InvalidDataError(f"{path} is damaged and cannot be gone on with: {error}") from error


def _cut_torn_line(path: Path) -> None:
    """Cut off what a worker that was killed wrote of a line, which would spoil the next one."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
