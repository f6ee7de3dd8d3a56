"""What lies in scripts/ is run, or its place says why not."""

import re
import tomllib
from importlib import metadata

from packaging.specifiers import SpecifierSet

# By hand: they need a GPU, or valgrind.
BY_HAND = {"check_gpu", "check_memory"}


def test_every_check_is_part_of_the_long_tests(request):
    scripts = request.config.rootpath / "scripts"
    run = set(re.findall(r"scripts/(check_\w+)", (scripts / "test").read_text()))
    assert {path.name for path in scripts.glob("check_*")} == run | BY_HAND


def test_what_is_pinned_runs_on_the_oldest_python(request):
    """A pin that a Python has no file for keeps pip searching for a quarter of an hour."""
    root = request.config.rootpath
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    oldest = f"{project['requires-python'].removeprefix('>=')}.0"
    pinned = re.findall(r"^([\w.-]+) ?[=@]", (root / "scripts/constraints.txt").read_text(), re.MULTILINE)
    there = {_normal(found.name): found.metadata["Requires-Python"] or "" for found in metadata.distributions()}
    needed = {name: there[_normal(name)] for name in pinned if _normal(name) in there}
    assert len(needed) > 0.8 * len(pinned)
    assert {name: python for name, python in needed.items() if oldest not in SpecifierSet(python)} == {}


def _normal(name):
    return re.sub("[-_.]+", "-", name).lower()
