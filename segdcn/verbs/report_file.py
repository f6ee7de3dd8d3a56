"""The file that a verb writes its report to: checked before the work, which may take long."""

import json as json_module
import math
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
    if path.is_fifo():
        return  # to open it would wait for whoever reads it
    try:
        path.open("a").close()  # permissions alone do not say whether a disk can be written
        if not there:
            path.unlink()
    except OSError as error:
        raise UserValueError(f"{option} is {json}, but must be a file that can be written: {error.strerror}") from error


def write_report(json: str, report: Any) -> None:
    """Write the report, whole or not at all; what is infinite or NaN is null, since JSON has no such numbers."""
    write_whole(Path(json), json_module.dumps(_finite(report), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
