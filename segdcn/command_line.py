"""What the arguments say before a parser has merged them: which keys are flags, and what each file sets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segdcn.yaml_files import parse_yaml, read_yaml


class CommandLine:
    """The arguments of one call.

    The parser merges files and flags and forgets where a value came from; what wins over a
    checkpoint depends on that.

    Args:
        args: The verb and its arguments.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)

    def check_files(self) -> None:
        """Read every YAML that the line names.

        The parser would take references that expand without end, or wait for a pipe.

        Raises:
            InvalidDataError: One is no YAML, or not to be read.
        """
        for arg in self.args:
            value = arg.partition("=")[2] or arg
            if value.endswith((".yaml", ".yml", ".json")) and Path(value).exists():
                read_yaml(Path(value))
        for _ in self._files():
            pass

    def flags(self, group: str) -> set[str]:
        """Name the keys of a group that are flags, as in --model.lr 0.01."""
        prefix = f"--{group}."
        return {arg[len(prefix) :].partition("=")[0] for arg in self.args if arg.startswith(prefix)}

    def model_keys_in_files(self) -> set[str]:
        """Name the model's keys that files set."""
        return {key for _, _, settings in self._files() for key in settings["model"]}

    def overruled(self) -> list[str]:
        """Say where a file of --config sets what a later --data or --model file sets to something else.

        A recipe that comes before the files it is meant to change would otherwise have no effect
        without a word.
        """
        lines = []
        earlier: dict[str, tuple[Any, str]] = {}
        for option, file, settings in self._files():
            keys = {f"{group}.{key}": value for group, of in settings.items() for key, value in of.items()}
            for key, value in keys.items():
                if option == "--config":
                    earlier[key] = (value, file)
                elif key in earlier and earlier[key][0] != value:
                    before, where = earlier.pop(key)
                    lines.append(f"{key}: {value} from {file}, not {before} from {where}: what comes later wins")
        return lines

    def _files(self) -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
        """Give every --config, --data and --model in their order, with the settings of data and model in it."""
        for arg, following in zip(self.args, [*self.args[1:], ""], strict=True):
            option, equals, value = arg.partition("=")
            value = value if equals else following
            match option:
                case "--config" | "-c":
                    content = read_settings(value)
                    data, model = (_of_group(content.get(group)) for group in ("data", "model"))
                    yield "--config", value, {"data": data.get("init_args") or {}, "model": model}
                case "--data":
                    yield option, value, {"data": _of_group(value).get("init_args") or {}, "model": {}}
                case "--model":
                    yield option, value, {"data": {}, "model": _of_group(value)}


def _of_group(value: Any) -> dict[str, Any]:
    """Settings of data or model, which a --config file may write out or take from another file."""
    return read_settings(value) if isinstance(value, str) else value or {}


def read_settings(value: str) -> dict[str, Any]:
    """Read a file of settings, or settings written where a file can stand.

    Raises:
        InvalidDataError: They are no YAML.
    """
    content = read_yaml(Path(value)) if _is_file(value) else parse_yaml(value, repr(value[:60]))
    return content if isinstance(content, dict) else {}


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # settings that are no name a file could have
        return False
