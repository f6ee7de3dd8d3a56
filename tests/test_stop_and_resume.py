"""A run that is stopped and goes on ends as the run that never stopped: same losses, same weights, bit for bit."""

import csv
import os
import shutil
import signal

import pytest
import torch

from segdcn import cli
from segdcn.task import SegmentationTask

STEPS = 3  # of an epoch: 6 pictures in batches of 2


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, request):
    """A folder with a data set, its YAML and a model's YAML; dropout and the order of the samples are at stake."""
    folder = tmp_path_factory.mktemp("stop")
    made = ["data", "make-shapes", "--output", str(folder / "set"), "--train=6", "--val=3", "--size=32"]
    assert cli.main(made) == 0
    (folder / "shapes.yaml").write_text(
        f"class_path: segdcn.data.Shapes\n"
        f"init_args: {{root: {folder / 'set'}, batch_size: 2, num_workers: 0, crop_size: 32, colour_jitter: 0.3}}\n"
    )
    (folder / "model.yaml").write_text("architecture: deeplabv3\nencoder: resnet18\ndeform_layers: 1\nlr: 0.05\n")
    shutil.copy(request.config.rootpath / "configs/base.yaml", folder / "base.yaml")
    return folder


def fit(*rest):
    files = ["--config=base.yaml", "--data=shapes.yaml", "--model=model.yaml", "--wandb=off", "--pictures.count=0"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2"]
    return cli.main(["fit", *files, *trainer, *rest])


def result(folder, name):
    """What a run of this name left: its weights, and its rows without the times."""
    (run,) = (folder / "runs" / name).iterdir()
    state = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v and "time" not in k} for row in csv.DictReader(file)]
    return state["state_dict"], state["optimizer_states"], rows


@pytest.fixture(scope="module")
def unbroken(workplace):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        assert fit("--name=unbroken") == 0
    return result(workplace, "unbroken")


def same(found, expected):
    for key, value in expected[0].items():
        assert torch.equal(found[0][key], value), key
    ours, theirs = (list(state[1][0]["state"].values()) for state in (found, expected))
    assert all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in zip(ours, theirs, strict=True))
    assert found[2] == expected[2]


def stop_in(monkeypatch, hook, number, signum):
    """Send this process a signal in the `number`-th call of a hook of the task, from 1; nothing after that."""
    before, calls = getattr(SegmentationTask, hook), []

    def wrapped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signum)
        return before(self, *args, **kwargs)

    monkeypatch.setattr(SegmentationTask, hook, wrapped)


MOMENTS = {
    "in the middle of the first epoch": ("training_step", 2, signal.SIGTERM),
    "in the last batch of an epoch": ("training_step", STEPS, signal.SIGINT),
    "in a validation": ("validation_step", 2 + 2, signal.SIGTERM),  # two are the sanity check's
    "in the first batch of the second epoch": ("training_step", STEPS + 1, signal.SIGUSR1),
    "in the last validation": ("validation_step", 2 + 3 + 1, signal.SIGTERM),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_saves_and_the_run_goes_on_as_if_it_had_not_stopped(
    moment, workplace, unbroken, tmp_path, monkeypatch, capsys
):
    hook, number, signum = MOMENTS[moment]
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with monkeypatch.context() as patch:
        stop_in(patch, hook, number, signum)
        assert fit("--name=stopped") == 128 + signum
    assert {s: signal.getsignal(s) for s in handlers} == handlers
    error = capsys.readouterr().err
    assert f"stopped by {signum.name}" in error and "--ckpt_path last --name stopped" in error
    workers = "--data.num_workers=2" if moment.endswith("first epoch") else "--data.num_workers=0"
    (checkpoints,) = tmp_path.glob("runs/stopped/*/checkpoints")
    (checkpoints / "best.ckpt.part").touch()  # what a kill in the middle of writing leaves
    assert fit("--name=stopped", "--ckpt_path=last", workers) == 0
    assert sorted(path.name for path in checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    same(result(tmp_path, "stopped"), unbroken)


# Averaged weights, an auxiliary head, two batches to a step, and a run of 6 steps with validation after every 2.
RECIPE = (
    "--model.ema_decay=0.5 --model.aux_weight=0.4 --data.batch_size=1 --trainer.accumulate_grad_batches=2 "
    "--model.architecture=deeplab --trainer.max_epochs=-1 --trainer.max_steps=6 --trainer.val_check_interval=4 "
    "--trainer.check_val_every_n_epoch=null"
).split()
MOMENTS_OF_A_RECIPE = {
    "between the two batches of a step": ("training_step", 2 * STEPS + 1, signal.SIGTERM),
    "in a validation, with averaged weights": ("validation_step", 2 + 2, signal.SIGTERM),
}


@pytest.fixture(scope="module")
def unbroken_recipe(workplace):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        assert fit("--name=recipe", *RECIPE) == 0
    return result(workplace, "recipe")


@pytest.mark.parametrize("moment", MOMENTS_OF_A_RECIPE)
def test_a_run_by_recipe_goes_on_as_if_it_had_not_stopped(moment, workplace, unbroken_recipe, tmp_path, monkeypatch):
    hook, number, signum = MOMENTS_OF_A_RECIPE[moment]
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_in(patch, hook, number, signum)
        assert fit("--name=stopped", *RECIPE) == 128 + signum
    assert fit("--name=stopped", *RECIPE, "--ckpt_path=last") == 0
    same(result(tmp_path, "stopped"), unbroken_recipe)


def test_under_slurm_a_signal_ahead_of_the_end_saves_where_last_looks(workplace, tmp_path, monkeypatch, capsys):
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    variables = {"JOB_ID": 1234, "JOB_NAME": "train", "NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    stop_in(monkeypatch, "training_step", 2, signal.SIGUSR1)
    assert fit("--name=stopped") == 128 + signal.SIGUSR1
    assert [path.name for path in tmp_path.glob("runs/stopped/*/checkpoints/*")] == ["last.ckpt"]
    assert not list(tmp_path.rglob("hpc_ckpt*"))


def test_a_second_ctrl_c_stops_at_once(workplace, tmp_path, monkeypatch, capsys):
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    stop_in(monkeypatch, "training_step", 1, signal.SIGINT)
    before = SegmentationTask.training_step

    def twice(self, *args, **kwargs):
        loss = before(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(SegmentationTask, "training_step", twice)
    assert fit("--name=stopped") == 130
    assert "nothing was saved" in capsys.readouterr().err


def test_a_run_that_diverges_ends_in_one_line(workplace, tmp_path, monkeypatch, capsys):
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert fit("--name=lost", "--model.lr=1e30") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing was saved" in error
    assert "the loss is infinite or NaN at step 2" in error and "learning rate 8.49e+29" in error
