"""The file that a verb writes its report to: checked before the work, which may take long."""

import json as json_module
from pathlib import Path
from typing import Any

from segdcn.errors import UserValueError
from segdcn.whole_file import write_whole


def check_report_file(json: str, option: str = "json") -> None:
    """Refuse a file that cannot be written, given for `option`.

    Raises:
        UserValueError: It is a folder, its folder does not exist, or writing is not permitted.
    """
    path = Path(json).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise UserValueError(f"{option} is {json}, but must be a file in a folder that exists")
    there = path.exists()
    try:
        path.open("a").close()  # permissions alone do not say whether a disk can be written
        if not there:
            path.unlink()
    except OSError as error:
        raise UserValueError(f"{option} is {json}, but must be a file that can be written: {error.strerror}") from error


def write_report(json: str, report: Any) -> None:
    """Write the report, whole or not at all."""
    write_whole(Path(json), json_module.dumps(report, indent=2) + "\n")
