"""Reading YAML that somebody else may have written."""

from pathlib import Path
from typing import Any

import yaml

from segdcn.errors import InvalidDataError, MissingFileError

MOST_VALUES = 100_000  # in one file, references written out


def read_yaml(path: Path) -> Any:
    """Read a YAML file: plain values, no objects.

    Raises:
        MissingFileError: It is not there.
        InvalidDataError: It cannot be read, is no YAML, refers to itself, or grows beyond measure
            where its references are followed.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise InvalidDataError(f"{path} is no file; expected a YAML")
        return parse_yaml(path.read_text(), path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} does not exist") from None
    except OSError as error:
        raise InvalidDataError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InvalidDataError(f"{path} is no YAML: it is no text in UTF-8") from error


def parse_yaml(text: str, where: object) -> Any:
    """Read YAML from a text; errors are `read_yaml`'s and name `where`."""
    try:
        content = yaml.safe_load(text)
        size = _size(content, {})
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidDataError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InvalidDataError(f"{where} is nested too deeply, or refers to itself") from None
    if size > MOST_VALUES:
        raise InvalidDataError(f"{where} holds references that make it {size:.2g} values; write out what is meant")
    return content


def _size(value: Any, known: dict[int, int]) -> int:
    """Count the values in a value; a part that is referred to again is walked once and counted again.

    Raises:
        RecursionError: It holds itself.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
