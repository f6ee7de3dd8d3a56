"""What the arguments say before a parser has merged them: which keys are flags, and which files were given."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


class CommandLine:
    """The arguments of one call.

    The parser merges files and flags and forgets where a value came from; what wins over a
    checkpoint depends on that.

    Args:
        args: The verb and its arguments.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)

    def flags(self, group: str) -> set[str]:
        """Name the keys of a group that are flags, as in --model.lr 0.01."""
        prefix = f"--{group}."
        return {arg[len(prefix) :].partition("=")[0] for arg in self.args if arg.startswith(prefix)}

    def model_keys_in_files(self) -> set[str]:
        """Name the model's keys that the files of --config and --model set."""
        configs = [read_settings(value) for option in ("--config", "-c") for value in self._values(option)]
        models = [config.get("model") or {} for config in configs] + [read_settings(v) for v in self._values("--model")]
        return {key for model in models for key in (read_settings(model) if isinstance(model, str) else model)}

    def _values(self, option: str) -> Iterator[str]:
        """Give what follows an option: `--x VALUE` or `--x=VALUE`."""
        for arg, following in zip(self.args, [*self.args[1:], ""], strict=True):
            name, equals, value = arg.partition("=")
            if name == option:
                yield value if equals else following


def read_settings(value: str) -> dict[str, Any]:
    """Read a file of settings, or settings written where a file can stand."""
    content = yaml.safe_load(Path(value).read_text() if Path(value).is_file() else value)
    return content if isinstance(content, dict) else {}
