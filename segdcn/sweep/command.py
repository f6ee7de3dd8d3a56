"""The command of a sweep file: its macros, expanded as W&B's agent does."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segdcn import class_paths
from segdcn.errors import UserValueError

MACRO = re.compile(r"\$\{([^}]*)\}")
VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
ARGUMENTS = {
    *("args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags"),
    *("args_append_hydra", "args_override_hydra", "args_json", "args_json_file"),
}
AS_TEXT = ARGUMENTS - {"args_json", "args_json_file"}  # here null becomes the text None
LAUNCH = {"${env}", "${interpreter}", "${program}", "-m", "segdcn"}  # what may stand before `fit`
MACROS = ARGUMENTS | {"env", "interpreter", "program"}


def check_command(command: Any, program: Any, null_values: bool) -> tuple[str, ...]:
    """Refuse a command that does not train with segdcn, or trains with other values than it says.

    Args:
        command: `command` of the sweep file.
        program: Its `program`.
        null_values: Whether a parameter can be null.

    Returns:
        The command's entries.
    """
    if Path(str(program)).name != "segdcn":
        raise UserValueError(f"program is {program!r}; a local sweep runs program: segdcn")
    if not isinstance(command, list) or "fit" not in command:
        raise UserValueError("command needs ${program} and fit; configs/sweep has examples")
    entries = tuple(map(str, command))
    if foreign := [entry for entry in entries[: entries.index("fit")] if entry not in LAUNCH]:
        raise UserValueError(
            f"command has {foreign[0]!r} before fit; a local sweep starts nothing but segdcn: "
            "${env}, ${program}, fit and its arguments"
        )
    if any(entry.partition("=")[0] == class_paths.OPTION for entry in entries):
        raise UserValueError(
            f"command has {class_paths.OPTION}; that is for who starts the sweep: add it to segdcn sweep"
        )
    used: set[str] = set()
    for entry in entries:
        for name in MACRO.findall(VARIABLE.sub("", entry)):
            if name not in MACROS:
                raise UserValueError(f"command has ${{{name}}}; known are {', '.join(sorted(MACROS))} and envvar:NAME")
            if entry != f"${{{name}}}":
                raise UserValueError(f"command has {entry!r}; W&B expands a macro only where it is an entry of its own")
            used.add(name)
    if not used & ARGUMENTS:
        raise UserValueError("command takes no parameters; end it with --config and ${args_json_file}")
    if null_values and used & AS_TEXT:
        raise UserValueError(
            f"${{{min(used & AS_TEXT)}}} makes null the text None; use --config and ${{args_json_file}} instead"
        )
    if "args_json_file" in used:
        after = entries[entries.index("${args_json_file}") :]
        if later := {entry.partition("=")[0] for entry in after} & {"--config", "-c", "--data", "--model"}:
            raise UserValueError(
                f"command has {min(later)} after ${{args_json_file}}, and would win over its values; put it before"
            )
    return entries


def expand(command: Iterable[str], program: str, arguments: Mapping[str, Any], json_file: Path) -> list[str]:
    """Put values in the place of macros.

    Args:
        command: Entries with macros.
        program: For `${program}`.
        arguments: The trial's arguments, nested as W&B nests them.
        json_file: For `${args_json_file}`; the caller writes `arguments` there.
    """
    pairs = [f"{name}={value}" for name, value in arguments.items()]
    macros = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program],
        "args": [f"--{pair}" for pair in pairs],
        "args_no_equals": [part for name, value in arguments.items() for part in (f"--{name}", str(value))],
        "args_no_hyphens": pairs,
        "args_no_boolean_flags": [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in arguments.items()
            if value is not False
        ],
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
        "args_json": [json.dumps(arguments)],
        "args_json_file": [str(json_file)],
    }
    expanded = []
    for entry in command:
        entry = VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), entry)
        match = MACRO.fullmatch(entry)
        expanded += macros[match[1]] if match else [entry]
    return expanded


def as_flags(command: Iterable[str], values: Mapping[str, Any]) -> str:
    """Write a trial's command as one line of `segdcn fit`, with its values as flags."""
    entries = [VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), entry) for entry in command]
    words: list[str] = []
    for entry in entries[entries.index("fit") :]:
        match = MACRO.fullmatch(entry)
        if match is None:
            words.append(entry)
        elif match[1] == "args_json_file" and words[-1] in ("--config", "-c"):
            words.pop()
    for name, value in values.items():
        words += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return shlex.join(["segdcn", *words])


def search_path() -> str:
    """Give the PATH with this interpreter's folder first: `segdcn` and `python` are those of this environment."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
