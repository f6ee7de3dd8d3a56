"""The reference of verbs and settings as Markdown, from signatures, docstrings and the parser."""

import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import docstring_parser

from segdcn import cli, data
from segdcn.data import SegmentationData
from segdcn.training import LINKS, SegmentationCLI

REQUIRED = inspect.Parameter.empty


class Entry(NamedTuple):
    """One option or setting."""

    name: str
    type: Any
    default: Any
    text: str


# Pages


def verbs_page() -> str:
    """List every verb with what it does and its options."""
    assert cli.__doc__ is not None
    exit_codes = cli.__doc__.partition("Exit codes:")[2]
    parts = [f"\nExit codes: {_prose(exit_codes)}"]
    for verb in cli.TRAINING_VERBS:
        description = _parser(verb).description
        parts += [f"## segdcn {verb}", _description(description)]
        parts.append("Options are [settings of data, model and the run](settings.md).")
    for name, verb in cli.VERBS.items():
        module, _, attribute = verb.function.partition(":")
        function = getattr(importlib.import_module(module), attribute)
        parts += [f"## segdcn {name}", _description(inspect.getdoc(function) or "")]
        parts.append(_entries(_options(function, verb.positional)))
    return "\n\n".join(parts)


def settings_page() -> str:
    """List every setting of data, model and the run."""
    common = _signature(SegmentationData, "data.")
    parts = ["## Data: every set", _entries(common)]
    for kind in _data_sets():
        own = [entry for entry in _signature(kind, "data.") if entry.name not in {other.name for other in common}]
        parts += [f"## Data: {kind.__name__}", f"`class_path: segdcn.data.{kind.__name__}`"]
        parts += [_entries(own) if own else "No settings of its own."]
    for title, names in _groups().items():
        parts += [f"## {title}", _entries(names)]
    return "\n\n".join(parts)


# Where entries come from


def _data_sets() -> list[type[SegmentationData]]:
    found = [getattr(data, name) for name in data.__all__]
    kinds = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, SegmentationData)]
    return [kind for kind in kinds if kind is not SegmentationData]


def _signature(function: Any, prefix: str = "") -> list[Entry]:
    """Entries of a function's or a class's arguments, with the text of its docstring."""
    documented = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    texts = {param.arg_name: param.description or "" for param in documented.params}
    named = inspect.signature(function, eval_str=True).parameters.values()
    return [
        Entry(prefix + param.name, param.annotation, param.default, texts.get(param.name, ""))
        for param in named
        if param.kind not in (param.VAR_KEYWORD, param.VAR_POSITIONAL)
    ]


def _options(function: Any, positional: bool) -> Iterable[Entry]:
    for entry in _signature(function):
        first = positional and entry.default is REQUIRED
        name = entry.name.removesuffix("_")
        yield entry._replace(name=name.upper() if first else f"--{name}")


def _parser(verb: str) -> Any:
    """The parser of fit, validate or test, as the command line builds it."""

    class Found(Exception):
        pass

    class ParserOnly(SegmentationCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            raise Found(self._parser(self.verb))

    try:
        ParserOnly([verb])
    except Found as found:
        return found.args[0]
    raise AssertionError("SegmentationCLI does not parse")


def _groups() -> dict[str, list[Entry]]:
    """What fit, validate and test take beside the data's settings, by group."""
    groups: dict[str, list[Entry]] = {"Model": [], "Run": []}
    seen = set()
    for verb in cli.TRAINING_VERBS:
        for action in _parser(verb)._actions:
            key = action.dest
            linked = key.removeprefix("model.") in LINKS and key.startswith("model.")
            if key in seen or linked or not hasattr(action, "_typehint") or key.endswith("help") or key == "data":
                continue
            seen.add(key)
            group = key.partition(".")[0].capitalize() if "." in key else "Run"
            text = _first_sentence(action.help) if group == "Trainer" else action.help
            groups.setdefault(group.replace("_", " "), []).append(Entry(key, action._typehint, action.default, text))
    return groups


# As Markdown


def _description(docstring: str) -> str:
    """The text of a verb's docstring, its example as a listing."""
    text, _, example = cli._without_sections(docstring).partition("Example:\n")
    listing = textwrap.dedent(example).strip()
    return _prose(text) + (f"\n\n```bash\n{listing}\n```" if listing else "")


def _entries(entries: Iterable[Entry]) -> str:
    """A definition list: name, type and default, and below them the text."""
    lines = []
    for entry in entries:
        default = "" if entry.default is REQUIRED else f", default `{_value(entry.default)}`"
        lines.append(f"`{entry.name}`\n: *{_type(entry.type)}{default}*\\\n  {_prose(entry.text, indent='  ')}\n")
    return "\n".join(lines)


def _prose(text: str, indent: str = "") -> str:
    """Text of a docstring: what stands in backticks stays, what Markdown would take for markup does not."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    parts = inspect.cleandoc(text).split("`")
    parts[::2] = [re.sub(r"([*_<>\[\]|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("\n", f"\n{indent}")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s|\nDefault:", text.strip())[0].replace("\n", " ")


def _value(value: Any) -> str:
    """A value as a YAML has it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return str(value)


def _type(kind: Any) -> str:
    """A type in words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(arg) for arg in args))
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is tuple:
        return f"\\[{', '.join(map(_type, args))}\\]"
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    if args:
        return f"list of {_type(args[0])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    return names.get(kind, {"Path": "path", "Any": "anything"}.get(kind.__name__, kind.__name__))
