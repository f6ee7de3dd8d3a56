"""The command `segdcn`: the table of verbs, and what becomes of errors.

Exit codes: 0 done; 1 the verb found problems and listed them (`doctor`); 2 the user's error,
in one line; 70 an error of ours, in one line that names the file with the traceback; 130
stopped by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1 (128 and the signal's number). `--debug`
anywhere on the line shows tracebacks and hides no warning; `--allow_classes my_package` lets
configurations name classes of that package too.
"""

import importlib
import inspect
import logging
import os
import re
import select
import shlex
import sys
import tempfile
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from segdcn import __version__, class_paths
from segdcn.errors import Stopped, UserError, system_refusal
from segdcn.refusals import near, one_line_refusals

EXIT_USER_ERROR = 2
EXIT_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells do
EXIT_NO_READER = 141  # 128 + SIGPIPE, likewise
LONGEST_LINE = 600
YES_OR_NO = ("true", "false", "yes", "no", "on", "off", "null")  # what may stand behind a flag


class Verb(NamedTuple):
    """A verb beyond fit, validate and test."""

    function: str  # "module:function"; imported only when called. Its typed arguments become options.
    line: str  # for `segdcn --help`; the verb's own help is the function's docstring
    positional: bool = False  # arguments without default need no name; they may have it
    rest: str = ""  # argument that takes what the verb does not know: options of fit


TRAINING_VERBS = {
    "fit": "train a network, or go on training it (--ckpt_path last)",
    "validate": "measure a checkpoint on the validation set",
    "test": "measure a checkpoint on the test set",
}
VERBS = {
    "data make-shapes": Verb("segdcn.verbs.data:make_shapes", "make the generated data set Shapes"),
    "data check": Verb("segdcn.verbs.data_check:data_check", "list what is wrong with a data set", positional=True),
    "data stats": Verb("segdcn.verbs.data_stats:data_stats", "measure colours and classes", positional=True),
    "data browse": Verb("segdcn.verbs.data_browse:data_browse", "show pictures with their labels", positional=True),
    "data prepare": Verb("segdcn.verbs.data_prepare:data_prepare", "make VOC's 10,582 with SBD", positional=True),
    "offsets": Verb("segdcn.verbs.offsets:offsets", "show where deformable layers look on an image", positional=True),
    "evaluate": Verb("segdcn.verbs.evaluate:evaluate", "score label PNGs from anywhere", positional=True),
    "predict": Verb("segdcn.verbs.predict:predict", "label pictures, folders of them, or patterns", positional=True),
    "export": Verb("segdcn.verbs.export:export", "write a trained network as a file others can run", positional=True),
    "convert": Verb("segdcn.verbs.convert:convert", "take over weights that others trained", positional=True),
    "sweep": Verb("segdcn.verbs.sweep:sweep", "train with many settings, on W&B or without a server", positional=True),
    "compare": Verb("segdcn.verbs.compare:compare", "train variants with several seeds each, and report", rest="fit"),
    "benchmark ops": Verb("segdcn.verbs.benchmark:ops", "time the operators against others"),
    "benchmark data": Verb("segdcn.verbs.benchmark_data:benchmark_data", "time the reading of samples"),
    "benchmark train": Verb(
        "segdcn.verbs.benchmark_train:benchmark_train", "time training steps, plain and deformable"
    ),
    "benchmark model": Verb(
        "segdcn.verbs.benchmark_model:benchmark_model",
        "time a network, its twin and exports",
        positional=True,
    ),
    "doctor": Verb("segdcn.verbs.doctor:doctor", "check this installation, and say what cures each problem"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the return value is the exit code.

    Args:
        argv: Arguments after `segdcn`; those of the process if None.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    _show_messages()
    try:
        code = _run_verb(class_paths.take_option(args), debug)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        if debug:
            raise
        print(f"segdcn: stopped by Ctrl-C{interrupt}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Stopped as stopped:
        print(f"segdcn: stopped by {stopped}{stopped.advice}", file=sys.stderr)
        return 128 + stopped.signum
    except UserError as error:
        if debug:
            raise
        print(f"segdcn: error: {_one_line(_original_message(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception as error:
        if _reader_is_gone():
            return EXIT_NO_READER
        if debug:
            raise
        cause = (error.__cause__ or error) if hasattr(error, "run_folder") else error
        if (refused := system_refusal(cause)) is not None:
            print(f"segdcn: error: {_one_line(refused)}", file=sys.stderr)
            return EXIT_USER_ERROR
        path = _write_traceback(cause, args, getattr(error, "run_folder", None))
        what = _one_line(f"{type(cause).__name__}: {_original_message(cause)}")
        print(f"segdcn: unexpected error, not of your making: {what}; traceback in {path}", file=sys.stderr)
        return EXIT_UNEXPECTED


def _reader_is_gone() -> bool:
    """Tell whether nobody reads what is printed any more, as after `| head`; if so, print no more."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # captured by a test, or closed
        return False
    poll = select.poll()
    poll.register(output, 0)  # errors are always told
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


def _show_messages() -> None:
    """Print what the package reports through logging, such as that it downloads weights."""
    log = logging.getLogger("segdcn")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("segdcn: %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)


def _run_verb(args: list[str], debug: bool) -> int:
    """Find the verb that the arguments begin with and run it; return the exit code."""
    match args:
        case [] | ["-h" | "--help", *_]:
            lines = TRAINING_VERBS | {name: verb.line for name, verb in VERBS.items()}
            print(_overview("segdcn", lines))
        case ["--version", *_]:
            print(f"segdcn {__version__}")
        case [verb, *_] if verb in TRAINING_VERBS:
            # Imported here, as every verb is: Lightning takes seconds, --help should not.
            from segdcn.training import train

            train(args, quiet=not debug)
        case [verb, *rest] if verb in VERBS:
            return _call(verb, rest)
        case [group, verb, *rest] if f"{group} {verb}" in VERBS:
            return _call(f"{group} {verb}", rest)
        case [group, *rest] if members := {name: v.line for name, v in VERBS.items() if name.startswith(f"{group} ")}:
            if not rest:
                raise UserError(f"segdcn {group} needs a verb: {', '.join(n.split()[1] for n in members)}; see --help")
            if rest[0] not in ("-h", "--help"):
                raise UserError(f"there is no verb '{group} {rest[0]}'{near(f'{group} {rest[0]}', members)}")
            print(_overview(f"segdcn {group}", members))
        case [unknown, *_]:
            raise UserError(
                f"there is no verb {unknown!r}{near(unknown, [*TRAINING_VERBS, *VERBS])}; see segdcn --help"
            )
    return 0


def _call(name: str, args: list[str]) -> int:
    """Call a verb's function with arguments parsed by its signature; None from it is exit code 0."""
    verb = VERBS[name]
    module, _, attribute = verb.function.partition(":")
    function: Callable[..., int | None] = getattr(importlib.import_module(module), attribute)

    # Imported here: half a second that `segdcn --help` need not take.
    import jsonargparse

    from segdcn.help import HelpFormatter

    class_paths.restrict_parser()
    parser = jsonargparse.ArgumentParser(
        prog=f"segdcn {name}",
        description=_without_sections(inspect.getdoc(function) or ""),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    skip: set[str | int] = {verb.rest} if verb.rest else set()
    parser.add_function_arguments(function, as_positional=verb.positional, fail_untyped=True, skip=skip)
    if not verb.rest:  # there, a name may be one of fit's options
        _take_names(parser, args)
    lists = _spell_options(parser)
    flags: set[str] = set()
    for action in parser._actions:
        kind = getattr(action, "_typehint", None)
        if kind in (bool, bool | None):
            action.nargs, action.const = "?", True  # --local alone is --local true
            flags.update(action.option_strings)
        if kind == list[str] and not lists.intersection(action.option_strings):  # positional, or was
            action.nargs, action.metavar = "+", action.dest
            action._typehint = str  # type: ignore[attr-defined]  # of each, as it is given
    rest: list[str] = []
    if verb.rest:
        args, rest = _divided(args, {option for action in parser._actions for option in action.option_strings})
    with one_line_refusals(parser):
        settings = parser.instantiate(parser.parse_args(list(_repeated(_alone(args, flags), lists))))
    return function(**settings.as_dict(), **({verb.rest: rest} if verb.rest else {})) or 0


def _take_names(parser: ArgumentParser, args: Sequence[str]) -> None:
    """Make options of the positional arguments that are given by their name."""
    named = {arg.partition("=")[0] for arg in args}
    for action in parser._actions:
        option = f"--{action.dest}"
        if not action.option_strings and option in named:
            action.option_strings = [option]
            parser._option_string_actions[option] = action


def _spell_options(parser: ArgumentParser) -> set[str]:
    """Call the option of an argument `class_` --class, and return the options that take several values."""
    lists = set()
    for action in parser._actions:
        if action.dest.endswith("_"):  # a keyword of Python
            action.option_strings, action.metavar = [f"--{action.dest[:-1]}"], action.dest[:-1].upper()
            parser._option_string_actions[action.option_strings[0]] = action
        if f"--{action.dest}+" in action.option_strings:
            action.option_strings = [f"--{action.dest}"]  # in the help
            lists.add(f"--{action.dest}")
    return lists


def _divided(args: Sequence[str], options: set[str]) -> tuple[list[str], list[str]]:
    """Divide arguments into those of these options, and others, each with its values."""
    mine: list[str] = []
    others: list[str] = []
    target = others
    for arg in args:
        if arg.startswith("--") or arg in ("-h", "-c"):
            target = mine if arg.partition("=")[0] in options else others
        target.append(arg)
    return mine, others


def _alone(args: Sequence[str], flags: set[str]) -> Iterator[str]:
    """Spell `--flag a.png` as `--flag=true a.png`, which it is not the value of."""
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        yield f"{arg}=true" if arg in flags and following.lower() not in YES_OR_NO else arg


def _repeated(args: Iterable[str], lists: set[str]) -> Iterator[str]:
    """Spell `--point a b --point c` as jsonargparse wants it: each value with `--point+=`."""
    option = ""
    for arg in args:
        if arg.startswith("--"):
            option, equals, value = arg.partition("=")
            if option not in lists:
                yield arg
            elif equals:
                yield f"{option}+={value}"
        else:
            yield f"{option}+={arg}" if option in lists else arg


def _without_sections(docstring: str) -> str:
    """Leave out Args, Returns and Raises: the options are listed anyway."""
    section = r"^(?:Args|Returns|Raises):\n(?:[ \t]+.*\n|\n)*"
    return re.sub(section, "", docstring + "\n", flags=re.MULTILINE).strip()


def _overview(command: str, lines: dict[str, str]) -> str:
    """List verbs with their lines."""
    width = max(map(len, lines))
    listed = "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
    return f"{command} VERB ...\n\n{listed}\n\nEvery verb explains itself: segdcn VERB --help\n"


# Errors


def _original_message(error: BaseException) -> str:
    """Give the message without what a DataLoader worker wraps around it."""
    if "DataLoader worker" not in str(error):
        return str(error)
    from segdcn.data.loading import original_message

    return original_message(error)


def _one_line(text: str) -> str:
    """Join lines, and leave out the middle of what nobody would read."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 200]} ... {line[-150:]}"


def _write_traceback(error: BaseException, args: list[str], folder: Path | None) -> Path:
    """Write the traceback into the run folder, or into the temporary folder where there is none."""
    text = f"segdcn {__version__}: segdcn {shlex.join(args)}\n\n" + "".join(traceback.format_exception(error))
    try:
        path = (folder or Path(tempfile.mkdtemp(prefix="segdcn-"))) / "traceback.txt"
        path.write_text(text)
    except OSError:  # the run's disk may be what failed
        path = Path(tempfile.mkdtemp(prefix="segdcn-")) / "traceback.txt"
        path.write_text(text)
    return path
