"""Training on GPUs, from the command line: what repeats bit for bit, and what the CPU refuses. Not run on a GPU yet."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.cuda, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent
GPUS = torch.cuda.device_count()
two_gpus = pytest.mark.skipif(GPUS < 2, reason="needs an NVIDIA GPU, and a second one")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    if not GPUS:
        pytest.skip("needs an NVIDIA GPU")
    folder = tmp_path_factory.mktemp("gpus")
    assert segdcn(folder, "data", "make-shapes", "--output=set", "--train=8", "--val=5", "--size=64").returncode == 0
    (folder / "shapes.yaml").write_text(
        "class_path: segdcn.data.Shapes\ninit_args: {root: set, batch_size: 4, num_workers: 0, crop_size: 64}\n"
    )
    (folder / "model.yaml").write_text("architecture: deeplab\nencoder: resnet18\ndeform_layers: 2\nlr: 0.01\n")
    return folder


def segdcn(folder, *arguments):
    command = [sys.executable, "-m", "segdcn", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ}, capture_output=True, text=True, timeout=600)


def fit(folder, name, *more):
    """Train on GPUs; return the weights and the logged rows without the times."""
    files = [f"--config={ROOT / 'configs/base.yaml'}", "--data=shapes.yaml", "--model=model.yaml", f"--name={name}"]
    mine = ["--wandb=off", "--pictures.count=0", "--trainer.log_every_n_steps=1", "--trainer.max_epochs=2"]
    done = segdcn(folder, "fit", *files, *mine, "--trainer.accelerator=gpu", *more)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs" / name).iterdir()
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if v and "time" not in k} for row in csv.DictReader(file)]
    return torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)["state_dict"], rows


def test_the_same_seed_gives_the_same_run_under_deterministic_mode(workplace):
    more = ["--trainer.devices=1", "--trainer.deterministic=true"]
    first, second = fit(workplace, "first", *more), fit(workplace, "second", "--data.num_workers=2", *more)
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


@two_gpus
def test_statistics_are_those_of_all_processes_with_sync_batchnorm(workplace):
    """Two times two images, or four on one GPU: with crops of one size the statistics are the same but for rounding."""
    (alone, _) = fit(workplace, "alone", "--trainer.devices=1")
    two = ["--data.batch_size=2", "--trainer.devices=2", "--trainer.strategy=ddp"]
    (shared, _) = fit(workplace, "shared", *two, "--trainer.sync_batchnorm=true")
    for name, value in alone.items():
        if name.endswith("running_mean"):
            torch.testing.assert_close(shared[name], value, rtol=0.05, atol=0.01)


@two_gpus
def test_fsdp_trains_and_saves_whole_weights(workplace):
    (weights, rows) = fit(workplace, "shards", "--trainer.devices=2", "--data.batch_size=2", "--trainer.strategy=fsdp")
    (alone, _) = fit(workplace, "whole", "--trainer.devices=1")
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in alone.items()}
    assert any("val/mIoU" in row for row in rows)
