"""Where an export goes: first under a name of its own, and to its place when it is proven."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segdcn.errors import UserValueError
from segdcn.export.safetensors import is_folder


def named_after(source: Path, ending: str) -> Path:
    """Give the place beside a checkpoint or folder that is called after it."""
    known = source.resolve() if source.name in ("", "..") else source  # of `.` there is no beside
    return known.parent / f"{known.name if known.is_dir() else known.stem}{ending}"


def check_output(output: Path, suffix: str, overwrite: bool, source: Path) -> None:
    """Refuse a place that cannot be written, or holds something.

    Args:
        output: File, or folder where `suffix` is empty.
        suffix: Ending that the format's files have.
        overwrite: What an earlier export of the same kind left may be replaced.
        source: What the output is made from, and cannot be.

    Raises:
        UserValueError: It cannot be the output; the message says why.
    """
    if output.suffix != suffix and suffix:
        raise UserValueError(f"output is {output}, but a file of this format ends in {suffix}")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise UserValueError(f"output is {output}, but {output.parent} is not a folder that can be written to")
    if not os.path.lexists(output):
        return
    # Even with overwrite: a mistyped name must not cost anyone their files.
    if output.is_dir() == bool(suffix) or not (suffix or is_folder(output)):
        raise UserValueError(f"{output} exists and is no earlier export of this format; choose another --output")
    if not overwrite:
        raise UserValueError(f"{output} exists; choose another --output, or pass --overwrite true")
    if output.exists() and output.samefile(source):
        raise UserValueError(f"output is {output}, which is what it would be made from; choose another")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a place beside `output` to write to, of the same name; what is not moved from there is deleted."""
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        yield folder / output.name
    finally:
        shutil.rmtree(folder)


def publish(written: Path, output: Path, overwrite: bool) -> None:
    """Move what was written to its place, in the place of what is there.

    Raises:
        UserValueError: Something has come there since it was checked, and may not be replaced.
    """
    if os.path.lexists(output) and not overwrite:
        raise UserValueError(
            f"{output} was made by another program in the meantime, and stays; choose another --output"
        )
    replaced = written.with_name(f"{written.name}.replaced")
    if output.is_dir():  # which a rename does not replace
        output.rename(replaced)
    try:
        written.replace(output)
    except BaseException:
        if os.path.lexists(replaced):
            replaced.rename(output)
        raise
