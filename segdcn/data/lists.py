"""Split lists: text files with a sample on each line."""

import os
from pathlib import Path

from segdcn.errors import InvalidDataError


def read_list(path: Path) -> list[tuple[str, str]]:
    """Read the lines of a list, without blank ones; any line ends, with or without a byte order mark.

    Returns:
        For each line where it is, for messages, and what it says.

    Raises:
        InvalidDataError: The file cannot be read, or is no text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidDataError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{path} is no text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise InvalidDataError(f"{path} is no text in UTF-8 (it holds zero bytes); save it as UTF-8")
    # Not splitlines(): it also splits at characters that a name may hold.
    lines = enumerate(text.split("\n"), start=1)
    return [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]


def join_below(root: Path, relative: str, where: str) -> Path:
    """Join a path that was read somewhere to the root; `where` it was read is for the message.

    Raises:
        InvalidDataError: It leads outside the root.
    """
    path = Path(os.path.normpath(root / relative.replace("\\", "/")))
    if not path.is_relative_to(os.path.normpath(root)):
        raise InvalidDataError(f"{where} names {relative}, which lies outside data.root {root}")
    return path
