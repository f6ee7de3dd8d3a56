"""The rule of CONTRIBUTING.md: who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "segdcn"

# What each part may import, and itself; cli.py may import all.
ALLOWED = {
    "errors": set(),
    "whole_file": set(),
    "yaml_files": {"errors"},
    "class_paths": {"errors"},
    "ops": {"errors"},
    "layers": {"errors", "ops"},
    "models": {"errors", "layers"},
    "data": {"errors", "class_paths", "refusals", "yaml_files"},
    "metrics": {"errors", "losses"},
    "losses": {"errors"},
    "optim": {"errors"},
    "inference": {"errors"},
    "task": {"errors", "models", "losses", "metrics", "optim", "inference", "fingerprint", "run"},
    "fingerprint": set(),
    "description": {"errors", "__version__"},
    "predictor": {"errors", "description", "inference"},
    "export": {
        *("errors", "fingerprint", "ops", "layers", "models", "task", "run", "description", "predictor"),
    },
    "offsets": {"errors", "layers"},
    "pictures": {"errors", "offsets"},
    "timing": {"errors"},
    "callbacks": {"errors", "whole_file", "task", "offsets", "pictures", "__version__"},
    "run": {"errors", "fingerprint"},
    "loggers": {"errors"},
    "checkpoint_io": {"errors"},
    "summary": {"errors", "metrics"},
    "refusals": {"errors", "class_paths"},
    "help": set(),
    "command_line": {"yaml_files"},
    "fitting": {"errors", "task"},
    "training": {
        *("errors", "data", "task", "callbacks", "run", "loggers", "checkpoint_io", "summary", "refusals", "help"),
        *("command_line", "fitting", "__version__", "class_paths", "whole_file"),
    },
    "sweep": {"errors", "class_paths", "yaml_files", "refusals", "loggers", "pictures"},
    "verbs": {
        *("errors", "data", "losses", "metrics", "offsets", "ops", "pictures", "refusals", "run", "summary", "task"),
        *("timing", "sweep", "predictor", "export", "yaml_files", "whole_file"),
    },
}
TORCH_ONLY = {"errors", "ops", "layers", "inference"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    paths = files(part)
    assert paths
    for path in paths:
        inside = {name.split(".")[1] for name in imports(path) if name.startswith("segdcn.")}
        assert inside <= ALLOWED[part] | {part}, path


@pytest.mark.parametrize("part", sorted(TORCH_ONLY))
def test_operators_and_layers_import_torch_only(part):
    import sys

    for path in files(part):
        outside = {name.split(".")[0] for name in imports(path)} - {"segdcn"} - set(sys.stdlib_module_names)
        assert outside <= {"torch"}, path


def test_nothing_is_a_drawer():
    names = {path.stem for path in PACKAGE.rglob("*.py")} | {path.name for path in PACKAGE.rglob("*") if path.is_dir()}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
