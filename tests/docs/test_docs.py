"""README and docs: every command and code block runs, or says why it does not."""

import functools
import glob
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from doc_blocks import PAGES, ROOT, RUNNABLE, Block, blocks, indented_listings, name
from doc_world import REPLACED, make

from segdcn import cli

WITH_CODE = [page for page in PAGES if any(block.language in RUNNABLE and not block.reason for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_says_what_it_is(page):
    """A fence names its language, and settings are YAML."""
    for block in blocks(page):
        assert block.language in (*RUNNABLE, "yaml", "{toctree}", "{eval-rst}"), f"{name(page)}:{block.line}"
        if block.language == "yaml":
            assert yaml.safe_load(block.code), f"{name(page)}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_command_hides_in_an_indented_block(page):
    """Those are formulas and listings; what can run is fenced, or nobody would notice that it does not."""
    code = re.compile(r"(segdcn|scripts/\S+|python|pip|import|from \S+ import|export)\b")
    assert not [line for line in indented_listings(page) if code.match(line)]


def test_what_does_not_run_says_why():
    """Reasons are whole thoughts; they are listed here for whoever runs this with -s."""
    for page in PAGES:
        for block in blocks(page):
            if block.reason is not None:
                print(f"{name(page)}:{block.line}: {block.reason}")
                assert block.language in RUNNABLE and len(block.reason.split()) >= 4


def test_what_is_replaced_is_there():
    """And replacing it is told why."""
    for page, table in REPLACED.items():
        text = (ROOT / page).read_text()
        assert all(old in text and why for old, _, why in table), page


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_paths_that_a_page_names_are_there(page):
    named = re.findall(r"`((?:segdcn|configs|scripts|tests|cuda|docs)/[\w./-]*\w)`", page.read_text())
    assert not [path for path in named if not (ROOT / path).exists() and "NAME" not in path and path != "segdcn/_lib"]


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_a_verb_is_parsed(verb, monkeypatch):
    """Its options are there and take what they are given; the reference shows it."""
    module, _, attribute = cli.VERBS[verb].function.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    called = []
    stand_in = functools.wraps(function)(lambda **settings: called.append(settings))
    monkeypatch.setattr(importlib.import_module(module), attribute, stand_in)
    example = inspect.getdoc(function).partition("Example:\n")[2].partition("\n\n")[0]
    lines = _lines(example)
    assert lines
    for line in lines:
        assert shlex.split(line)[: 1 + len(verb.split())] == ["segdcn", *verb.split()]
        assert cli.main(shlex.split(line)[1:]) == 0
    assert len(called) == len(lines)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """What the pages' commands need, made once."""
    folder = tmp_path_factory.mktemp("docs") / "world"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_the_blocks_of_a_page_run(page, small_world, tmp_path, monkeypatch, request):
    """In their order, in one folder, in one Python."""
    world = tmp_path / "world"
    subprocess.run(["cp", "-al", small_world, world], check=True)  # links: a checkpoint has 150 MB
    if "cityscapes" in page.read_text():
        (world / "data").mkdir()
        (world / "data" / "cityscapes").symlink_to(request.getfixturevalue("test_data") / "cityscapes")
    monkeypatch.chdir(world)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for key in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(key, raising=False)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        code = block.code
        for old, new, _ in REPLACED.get(name(page), []):
            code = code.replace(old, new)
        if block.file is not None:
            Path(block.file).write_text(code)
        elif block.language in RUNNABLE and block.reason is None:
            try:
                run(block, code, names)
            except BaseException as error:
                error.add_note(f"in the block at {name(page)}:{block.line}")
                raise


def run(block: Block, code: str, names: dict[str, object]) -> None:
    """Run a block: Python and lines of segdcn here, which saves their imports, the rest in a shell."""
    if block.language == "python":
        exec(compile(code, f"block at line {block.line}", "exec"), names)
    elif all(line.startswith("segdcn ") for line in _lines(code)):
        for line in _lines(code):
            assert cli.main(_words(line)[1:]) == 0, line
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)


def _lines(code: str) -> list[str]:
    """Commands, those over several lines joined, without comments."""
    joined = re.sub(r"\\\n\s*", " ", code)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def _words(line: str) -> list[str]:
    """What a shell would make of a line."""
    words = []
    for word in shlex.split(line, comments=True):
        words += sorted(glob.glob(word)) or [word] if "*" in word else [word]
    return words
