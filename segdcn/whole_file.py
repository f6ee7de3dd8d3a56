"""Output that is there as a whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text beside its place and move it there: on a full disk what was there stays, and nothing new is left.

    Links, pipes and devices are written to and stay what they are: nobody wants a file in the place of /dev/null.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(text, encoding="utf-8", errors=errors)
        return
    beside = path.with_name(f"{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", errors=errors)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def emptied_on_failure(folder: Path) -> Iterator[None]:
    """Remove what is in a folder if something goes wrong; for folders that are new or empty before."""
    there = folder.is_dir()
    try:
        yield
    except BaseException:
        empty(folder)
        if not there and folder.is_dir():
            folder.rmdir()
        raise


def empty(folder: Path) -> None:
    """Remove all that is in a folder, if it is there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
