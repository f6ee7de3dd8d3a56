"""The command line without training: help, and what bad input gets."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segdcn import cli
from segdcn.errors import InvalidDataError


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """A data set of a few small pictures, and its YAML."""
    folder = tmp_path_factory.mktemp("shapes")
    assert cli.main(["data", "make-shapes", "--output", str(folder / "set"), "--train=6", "--val=3", "--size=64"]) == 0
    config = folder / "shapes.yaml"
    config.write_text(
        f"class_path: segdcn.data.Shapes\n"
        f"init_args: {{root: {folder / 'set'}, batch_size: 2, num_workers: 0, crop_size: 32}}\n"
    )
    return config


@pytest.fixture
def run(shapes, tmp_path, capsys, monkeypatch):
    """Call `segdcn VERB` on that data, in an empty folder; gives exit code and error lines."""
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def call(verb, rest="", data=True):
        args = [verb, *(["--data", str(shapes)] if data else []), "--model.encoder=resnet18", *shlex.split(rest)]
        code = cli.main(args)
        return code, capsys.readouterr().err.splitlines()

    return call


def test_help_answers_at_once_and_names_every_verb():
    """Within 3 seconds on a busy machine, where importing Lightning alone takes 5 to 20."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "segdcn", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 3
    assert all(verb in done.stdout for verb in [*cli.TRAINING_VERBS, *cli.VERBS])


def test_help_imports_nothing_heavy():
    code = "import sys; from segdcn.cli import main; main(['--help']); assert not {'torch', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_verb_s_help_shows_its_example(capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["data", "make-shapes", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "    segdcn data make-shapes --output" in text and "Args:" not in text and "Raises:" not in text


@pytest.mark.parametrize("verb", cli.TRAINING_VERBS)
def test_help_of_training_shows_an_example(verb, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([verb, "--help"])
    assert exit_.value.code == 0
    assert f"    segdcn {verb} --config configs/base.yaml --data configs/data/voc.yaml \\" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ("fitt", "there is no verb 'fitt'; did you mean fit?; see segdcn --help"),
        ("data", "segdcn data needs a verb: make-shapes, check, stats, browse, prepare; see --help"),
        ("data make-shape", "there is no verb 'data make-shape'; did you mean data make-shapes?"),
        ("data make-shapes --outptu x", "unknown option --outptu; did you mean output?"),
        ("data make-shapes --output x --train many", "train: expected a int; got many"),
        ("fit", "missing: --data; see --help"),
    ],
)
def test_a_wrong_verb_or_option_is_one_line(args, line, capsys):
    assert cli.main(shlex.split(args)) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().err == f"segdcn: error: {line}\n"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("--model.lrr 1", "unknown option --model.lrr; did you mean model.lr?"),
        ("--data.crop_sise 1", "segdcn.data.Shapes has no setting 'crop_sise'; did you mean crop_size?"),
        ("--trainer.max_epoch 1", "unknown option --trainer.max_epoch; did you mean trainer.max_epochs"),
        ("--config bad.yaml", "unknown key trainer.max_epoch; did you mean trainer.max_epochs"),
        ("--model bad_model.yaml", "unknown key model.encoderr; did you mean model.encoder"),
        ("--config nowhere.yaml", "nowhere.yaml"),
        ("--model nowhere.yaml", "model: nowhere.yaml cannot be read as YAML, or is not there"),
        ("--data nowhere.yaml", "data: nowhere.yaml is neither a file that can be read nor a class"),
        ("--data bad_data.yaml", "data.scale_range: expected a tuple with 2 elements; got [1, 2, 3]"),
        ("--data misplaced.yaml", "data: expected class_path and init_args, and nothing beside them"),
        ("--data.std null", "data.std is null; expected a value"),
        ("--data no/where", "data: no/where is neither a file that can be read nor a class"),
        ("--data os.system", "os.system may not be named in a configuration"),
        ("--data.root nowhere", "nowhere is not a folder"),
        ("--data.crop_size 33", "data.crop_size is [33, 33]"),
        ("--model.lr much", "model.lr: expected a float; got much"),
        ("--model.architecture unet", "model.architecture: expected one of 'deeplab', 'deeplabv3', 'deeplabv3plus'"),
        ("--model.encoder resnet19", "resnet18"),
        ("--model.num_classes 4", "model.num_classes cannot be set: it is taken from data.num_classes"),
        ("--model.class_names [a]", "model.class_names cannot be set: it is taken from the data"),
        ("--trainer.accelerator tpu", "trainer: "),
        ("--trainer.default_root_dir x", "runs go to --runs_dir and --name"),
        ("--name a/b", "cannot be a run's name"),
        ("--name=", "'' cannot be a run's name"),
        ("--wandb maybe", "wandb: expected one of 'auto', 'online', 'offline', 'off'; got maybe"),
        ("--ckpt_path last", "--ckpt_path last: no run under"),
        ("--ckpt_path best", "training goes on from 'last'"),
        ("--ckpt_path nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        ("--ckpt_path bad.yaml", "bad.yaml cannot be read as a checkpoint"),
        ("--pictures.count -1", "pictures.count is -1"),
        ("--model.min_lr 1", "model.min_lr is 1.0; expected a rate from 0 to model.lr"),
        ("--model.class_weights much", "model.class_weights: expected a list; expected one of 'balanced'; got much"),
        ("--early_stopping.patience 0", "early_stopping has patience 0"),
        ("--early_stopping.patiens 1", "has no setting 'patiens'; did you mean patience?"),
        ("--trainer.devices 2 --trainer.sync_batchnorm true", "synchronises batch normalisation on GPUs only"),
        ("--trainer.strategy fsdp", "trainer: The strategy `fsdp` requires a GPU accelerator"),
        ("stray", "cannot place 'stray'; options are written --key value"),
    ],
)
def test_bad_input_to_fit_is_one_line_and_leaves_nothing_behind(run, tmp_path, rest, expected):
    (tmp_path / "bad.yaml").write_text("trainer: {max_epoch: 3}\n")
    shapes = "class_path: segdcn.data.Shapes\ninit_args: {root: set, scale_range: [1, 2, 3]}\n"
    (tmp_path / "bad_data.yaml").write_text(shapes)
    (tmp_path / "misplaced.yaml").write_text(f"{shapes}seed: 1\n")
    (tmp_path / "bad_model.yaml").write_text("encoderr: resnet18\n")
    code, lines = run("fit", f"--wandb off --trainer.max_epochs 1 --trainer.accelerator cpu {rest}")
    assert code == cli.EXIT_USER_ERROR
    assert len(lines) == 1 and lines[0].startswith("segdcn: error: ")
    assert expected in lines[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_measuring_needs_a_checkpoint(run, verb):
    code, lines = run(verb)
    assert code == cli.EXIT_USER_ERROR
    assert lines == [f"segdcn: error: {verb} needs weights: give --ckpt_path FILE, or 'best' or 'last' with --name"]


def test_debug_shows_the_traceback_of_a_user_error(run):
    with pytest.raises(cli.UserError):
        run("fit", "--name a/b --debug")


def broken(self, key):
    raise InvalidDataError("the label file of 7 is missing; add it")


def test_an_error_in_a_worker_keeps_its_one_line(run, monkeypatch):
    monkeypatch.setattr("segdcn.data.base.SegmentationDataset.__getitem__", broken)
    code, lines = run("fit", "--wandb off --data.num_workers 1 --trainer.max_epochs 1")
    assert code == cli.EXIT_USER_ERROR
    assert lines == ["segdcn: error: the label file of 7 is missing; add it"]


def test_an_error_of_ours_names_the_file_with_its_traceback(run, monkeypatch, tmp_path):
    def bug(*_):
        raise ZeroDivisionError("a bug\nof two lines")

    monkeypatch.setattr("segdcn.losses.cross_entropy", bug)
    code, lines = run("fit", "--wandb off --trainer.max_epochs 1 --name broken")
    assert code == cli.EXIT_UNEXPECTED
    assert len(lines) == 1 and "ZeroDivisionError: a bug of two lines" in lines[0]
    (file,) = tmp_path.glob("runs/broken/*/traceback.txt")
    assert str(file.relative_to(tmp_path)) in lines[0]
    text = file.read_text()
    assert "segdcn fit --data" in text and "in bug" in text


def test_an_error_of_ours_before_there_is_a_run_goes_to_the_temporary_folder(run, monkeypatch, tmp_path):
    def bug(**_):
        raise ZeroDivisionError

    monkeypatch.setattr("segdcn.task.build_deeplab", bug)
    code, lines = run("fit", "--wandb off")
    assert code == cli.EXIT_UNEXPECTED
    path = lines[0].rpartition("traceback in ")[2]
    assert "ZeroDivisionError" in Path(path).read_text()
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_is_one_line_and_its_own_exit_code(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("segdcn.losses.cross_entropy", interrupt)
    # Lightning ignores further signals while it shuts down; this process lives on.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    code, lines = run("fit", "--wandb off --trainer.max_epochs 1")
    assert code == cli.EXIT_INTERRUPTED
    assert lines == ["segdcn: stopped by Ctrl-C; nothing was saved"]


def test_a_verb_that_passes_options_on_keeps_its_own_with_their_values():
    args = ["--config", "a.yaml", "--vary", "lr=1,2", "--model.x=-1", "--vary=b=3", "--trainer.n", "-1", "-c", "d.yaml"]
    mine, others = cli._divided(args, {"--vary", "--help", "-h"})
    assert mine == ["--vary", "lr=1,2", "--vary=b=3"]
    assert others == ["--config", "a.yaml", "--model.x=-1", "--trainer.n", "-1", "-c", "d.yaml"]
    assert cli._divided(["-h"], {"-h"}) == (["-h"], [])


def test_a_reader_that_went_away_is_no_error():
    """As in `segdcn --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "segdcn", "data", "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == cli.EXIT_NO_READER and done.stderr == b""
