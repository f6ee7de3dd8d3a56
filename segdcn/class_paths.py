"""Which classes a configuration may name, since naming one imports it and building it runs its code.

A YAML, a sweep's parameter, a flag or the `config.yaml` of a run folder can name classes of
`ALLOWED` only. A package of the user's own is allowed by who starts the command, never by a file:
`--allow_classes my_package` anywhere on the line, or the environment variable, which trials of a
local sweep and other processes of a run inherit.
"""

import os
from collections.abc import Iterator, Sequence

from segdcn.errors import UserValueError

OPTION = "--allow_classes"
VARIABLE = "SEGDCN_ALLOW_CLASSES"

ALLOWED = (
    *("segdcn.data", "segdcn.callbacks"),
    *(f"pytorch_lightning.{kind}" for kind in ("callbacks", "loggers", "plugins", "profilers", "strategies")),
    *("pytorch_lightning.accelerators", "pytorch_lightning.utilities.types"),
    # Where Lightning defines some of what it offers under the names above.
    *("lightning_fabric.plugins", "lightning_fabric.accelerators", "lightning_fabric.strategies"),
)
_TOLD = "classes of segdcn.data and of Lightning's callbacks, loggers, plugins, profilers and strategies"


def take_option(args: Sequence[str]) -> list[str]:
    """Allow what `--allow_classes` names, and return the other arguments.

    Raises:
        UserValueError: It names no package.
    """
    rest, named = [], []
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option == OPTION:
            named.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    if named:
        # For other processes too, those that Lightning starts and the trials of a sweep.
        os.environ[VARIABLE] = ",".join(filter(None, [os.environ.get(VARIABLE), *named]))
        list(_own())
    return rest


def allowed() -> list[str]:
    """Give the packages and modules whose classes may be named, with everything below them."""
    return [*ALLOWED, *_own()]


def _own() -> Iterator[str]:
    for name in os.environ.get(VARIABLE, "").split(","):
        if name and not all(part.isidentifier() for part in name.split(".")):
            raise UserValueError(f"{OPTION} (or {VARIABLE}) is {name!r}; expected a package such as my_package")
        if name:
            yield name


def is_allowed(path: str) -> bool:
    """Tell whether a configuration may name this class."""
    return any(path == name or path.startswith(f"{name}.") for name in allowed())


def refusal(path: str) -> str:
    """Say that a configuration may not name this, and what to do."""
    package = path.partition(".")[0]
    return (
        f"{path} may not be named in a configuration, which takes {_TOLD}; "
        f"if you trust it, add {OPTION} {package} to the command line"
    )


def restrict_parser() -> None:
    """Have jsonargparse import nothing else, also not through a module that imports it."""
    import jsonargparse

    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed())
