"""What the argument parser refuses, said in one line, with near names for what is unknown."""

import difflib
import importlib
import inspect
import re
import textwrap
from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, get_args, get_type_hints

from segdcn import class_paths
from segdcn.errors import UserError, UserValueError


@contextmanager
def one_line_refusals(parser: ArgumentParser) -> Iterator[None]:
    """Turn the parser's errors of several lines into a UserError of one."""
    try:
        yield
    except ArgumentError as error:
        raise UserError(refusal(str(error), _known(parser))) from error


def refuse_nulls(kind: type, settings: Mapping[str, Any], group: str) -> None:
    """Refuse null for what cannot be null, which the parser takes for anything.

    Args:
        kind: The class that the settings are for.
        settings: By name.
        group: What stands before the name in a message: `model.`.

    Raises:
        UserValueError: A setting is null that has to be something.
    """
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        with suppress(NameError):  # a hint that is there for type checkers only
            hints |= get_type_hints(vars(base).get("__init__", object.__init__))
    for name, value in settings.items():
        hint = hints.get(name, Any)
        if value is None and hint is not Any and type(None) not in get_args(hint):
            raise UserValueError(f"{group}{name} is null; expected a value (leave the line out for the default)")


def _known(parser: ArgumentParser) -> set[str]:
    """All keys that can be given; links fill the others."""
    return {action.dest for action in parser._actions if action.option_strings}


def near(word: str, known: Iterable[str]) -> str:
    """Give `; did you mean a or b?` for the nearest known words, or nothing.

    Of dotted keys those of the same group are compared, by what follows the group.
    """
    group = word.rpartition(".")[0]
    leaves = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == group}
    found = difflib.get_close_matches(word.rpartition(".")[2], leaves, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(leaves[leaf] for leaf in found)}?" if found else ""


def refusal(message: str, known: Iterable[str]) -> str:
    """Rewrite one message of jsonargparse.

    Args:
        message: As raised; parts in a known form are reworded, the rest is joined to one line.
        known: All keys the parser takes, such as `model.lr`.
    """
    file = re.search(r'Parser key "(\w+)":[\s\S]*?- Expected a path but (.*?) either not accessible', message)
    if file and (re.search(r"/|\.(ya?ml|json)$", file[2]) or "is not allowed" not in message):
        return f"{file[1]}: {file[2]} is neither a file that can be read nor a class, such as segdcn.data.VOC"
    if match := re.search(r"Importing '([\w.]+)' is not allowed", message):
        if match[1].endswith((".yaml", ".yml", ".json")):
            return f"{match[1]} is neither a file that can be read nor a class, such as segdcn.data.VOC"
        return class_paths.refusal(match[1])
    if match := re.match(r"unrecognized arguments: --([\w.-]+)", message):
        return f"unknown option --{match[1]}{near(match[1], known)}"
    if match := re.match(r"unrecognized arguments: (.*)", message):
        return f"cannot place {match[1]!r}; options are written --key value"
    if match := re.search(r"given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", message):
        return f"{match[1]} has no setting {match[2]!r}{near(match[2], _settings(match[1]))}"
    if match := re.search(r"(?:Subcommand '\w+' does not accept option|Option) '([\w.]+)'", message):
        return f"unknown key {match[1]}{near(match[1], known)}"
    if match := re.search(r"Group '(\w+)' does not accept option '([\w.]+)'", message):
        return f"unknown key {match[1]}.{match[2]}{near(f'{match[1]}.{match[2]}', known)}"
    if match := re.search(r"given class_path '([\w.]+)':\s+the following arguments are required: (.*)", message):
        return f"{match[1]} needs {match[2]}; set it in its YAML or on the command line"
    if match := re.match(r"the following arguments are required: (.*)", message):
        names = ", ".join(
            "--" + name.removeprefix("fit.").removeprefix("validate.").removeprefix("test.")
            for name in match[1].split(", ")
        )
        return f"missing: {names}; see --help"
    if match := re.search(r'Linked "([\w.]+)" must be given via "([\w.]+)"', message):
        return f"{match[1]} cannot be set: it is taken from {match[2]}"
    if match := re.match(r"argument .* --> ([\w.]+):", message):
        return f"{match[1]} cannot be set: it is taken from the data"
    if match := re.search(r'Parser key "(\w+)":\s+Unable to load config [\'"](.*?)[\'"]', message):
        return f"{match[1]}: {match[2]} cannot be read as YAML, or is not there"
    if match := re.search(r'Parser key "(\w+)":[\s\S]*?Problem with given class_path .*\n((?: {8}.*\n?)+)', message):
        # Around it stands all that the class was given.
        inner = textwrap.dedent(match[2])
        return f"{match[1]}{'.' if inner.startswith('Parser key') else ': '}{refusal(inner, known)}"
    if match := re.match(r'Parser key "(\w+)":[\s\S]*Not a valid subclass of', message):
        return f"{match[1]}: expected class_path and init_args, and nothing beside them"
    if match := re.match(r'Parser key "(\w+)":[\s\S]*Import path (\S+) does not correspond', message):
        return f"{match[1]}: {match[2]} is no class of this kind"
    return _flat(message)


def _settings(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _flat(message: str) -> str:
    """Join a message about a value to one line and take the types' Python spelling out."""
    key, given, parts = "", "", []
    for line in message.splitlines():
        line = line.strip().removeprefix("- ")
        if match := re.match(r'Parser key "([\w.]+)":\s*(.*)', line):
            key, line = f"{match[1]}: ", match[2]
        if match := re.match(r"Given value: (?!Namespace|NestedArg)(.*)", line):
            given = f"; got {match[1]}"
        elif line and not re.match(
            r"Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>", line
        ):
            parts.append(line)
    text = key + "; ".join(dict.fromkeys(parts)) + given
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = re.sub(r"(?:a )?typing\.Literal\[([^]]*)\]", r"one of \1", text)
    return text.replace("Expected", "expected").replace(". Got value: ", "; got ")
