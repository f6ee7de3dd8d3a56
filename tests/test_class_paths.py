"""A configuration imports nothing but what it may name."""

import sys

import pytest
import yaml

from segdcn import class_paths, cli

MODULE = """
from segdcn.data import Shapes

class Mine(Shapes):
    pass
"""
PROBLEM = "may not be named in a configuration, which takes classes of segdcn.data and"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a data set, and a package of somebody's that can be imported."""
    monkeypatch.setenv(class_paths.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert cli.main(["data", "make-shapes", "--output=set", "--train=4", "--val=2", "--size=32"]) == 0
    return tmp_path


def write(class_path, **init_args):
    with open("data.yaml", "w") as file:
        yaml.safe_dump({"class_path": class_path, "init_args": {"root": "set", **init_args}}, file)


# One name is of a module that was imported by an allowed one, one of a function where a class may stand.
@pytest.mark.parametrize("name", ["mine.Mine", "os.system", "segdcn.data.base.os.system", "segdcn.cli.main"])
@pytest.mark.parametrize("line", [["fit", "--data=data.yaml"], ["data", "check", "data.yaml"]])
def test_another_class_is_refused_in_one_line_and_not_imported(workplace, line, name, capsys):
    write(name)
    capsys.readouterr()
    assert cli.main(line) == cli.EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and (PROBLEM in error or "cannot be imported" in error)
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    "callback",
    [
        {"class_path": "subprocess.Popen", "init_args": {"args": "ls"}},
        {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.getcwd"}},
    ],
)
def test_a_file_of_settings_names_no_function_and_no_program(workplace, callback, capsys):
    write("segdcn.data.Shapes")
    (workplace / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert cli.main(["fit", "--data=data.yaml", "--config=more.yaml"]) == cli.EXIT_USER_ERROR
    assert PROBLEM in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--allow_classes", "mine"], ["--allow_classes=mine"]])
def test_who_starts_the_command_can_allow_a_package(workplace, option, capsys):
    write("mine.Mine")
    assert cli.main([*option, "data", "check", "data.yaml"]) == 0
    assert cli.main(["data", "check", "data.yaml"]) == 0  # the environment of processes that this one starts
    assert class_paths.is_allowed("mine.more.Mine") and not class_paths.is_allowed("mineral.Mine")


def test_a_file_cannot_allow_itself(workplace, capsys):
    (workplace / "more.yaml").write_text("allow_classes: mine\n")
    assert cli.main(["fit", "--config=more.yaml"]) == cli.EXIT_USER_ERROR
    assert "unknown key allow_classes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["my package", "os;"])
def test_what_is_no_package_is_refused(workplace, name, capsys):
    assert cli.main(["data", "check", "data.yaml", "--allow_classes", name]) == cli.EXIT_USER_ERROR
    assert "expected a package such as my_package" in capsys.readouterr().err


def test_lightning_s_own_callbacks_and_loggers_may_be_named():
    for name in (
        "callbacks.ModelCheckpoint",
        "loggers.CSVLogger",
        "plugins.MixedPrecision",
        "profilers.SimpleProfiler",
    ):
        assert class_paths.is_allowed(f"pytorch_lightning.{name}")
