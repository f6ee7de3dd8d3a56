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
    "object_sizes": set(),
    "metrics": {"errors", "losses", "object_sizes"},
    "losses": {"errors"},
    "optim": {"errors"},
    "inference": {"errors"},
    "task_settings": {"errors", "losses"},
    "task": {"errors", "models", "losses", "metrics", "optim", "inference", "fingerprint", "run", "task_settings"},
    "fingerprint": set(),
    "description": {"errors", "__version__"},
    "predictor": {"errors", "description", "inference", "data"},
    "export": {
        *("errors", "fingerprint", "ops", "layers", "models", "task", "run", "description", "predictor"),
    },
    "device": {"errors", "predictor"},
    "prediction": {"errors", "data", "device", "inference", "pictures", "predictor"},
    "offsets": {"errors", "layers", "object_sizes"},
    "pictures": {"errors", "offsets"},
    "timing": {"errors"},
    "stopwatch": set(),
    "code_version": {"__version__"},
    "wandb_pictures": set(),
    "callbacks": {
        *("errors", "task", "offsets", "object_sizes", "pictures", "loggers", "wandb_pictures", "stopwatch"),
        *("timing", "whole_file", "__version__"),
    },
    "run": {"errors", "fingerprint"},
    "loggers": {"errors", "stopwatch"},
    "checkpoint_io": {"errors"},
    "summary": {"errors", "metrics", "object_sizes"},
    "refusals": {"errors", "class_paths"},
    "help": set(),
    "command_line": {"yaml_files"},
    "fitting": {"errors", "task"},
    "training": {
        *("errors", "data", "task", "callbacks", "run", "loggers", "checkpoint_io", "summary", "refusals", "help"),
        *("command_line", "fitting", "code_version", "class_paths", "stopwatch", "whole_file"),
    },
    "training_process": {"errors"},
    "sweep": {
        *("errors", "class_paths", "yaml_files", "refusals", "loggers", "pictures", "training_process", "whole_file"),
    },
    "compare": {
        *("errors", "data", "task", "callbacks", "run", "pictures", "refusals", "timing", "training_process"),
        *("training", "fingerprint", "__version__"),
    },
    "verbs": {
        *("errors", "data", "layers", "losses", "metrics", "models", "offsets", "ops", "pictures", "refusals", "run"),
        *("summary", "task", "timing", "sweep", "predictor", "export", "compare", "training", "fingerprint"),
        *("device", "inference", "prediction", "description", "yaml_files", "whole_file", "__version__"),
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
