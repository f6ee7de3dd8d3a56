"""The shipped sweep files under W&B's own `wandb sweep` and `wandb agent`, against a server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from segdcn import cli

ROOT = Path(__file__).resolve().parents[2]
# The folder is no package, and tests are imported each by its path.
sys.path.insert(0, str(Path(__file__).parent))
from wandb_server import SWEEP_ID, Server, serving  # noqa: E402


@pytest.fixture
def logged_in(tmp_path, monkeypatch):
    """An empty folder with the configs, `segdcn` on the PATH, and a key for no server yet."""
    program = tmp_path / "bin" / "segdcn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m segdcn "$@"\n')
    program.chmod(0o755)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path), "WANDB_MODE": "offline"}
    path = [str(program.parent), str(Path(sys.executable).parent), environment["PATH"], str(ROOT)]
    environment["PATH"] = os.pathsep.join(path[:-1])
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    monkeypatch.chdir(tmp_path)
    return environment


def wandb(environment, *words):
    command = [sys.executable, "-m", "wandb", *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_wandb_sweep_and_agent_train_with_the_values_that_the_server_sends(logged_in, tmp_path):
    """Values of every type, asserted in the configuration that the network was built with."""
    assert cli.main(["data", "make-shapes", "--output=datasets/shapes", "--train=4", "--val=2", "--size=32"]) == 0
    small = {"trainer.max_epochs": 1, "data.init_args.batch_size": 2, "data.init_args.crop_size": 32}
    first = {
        "model.deform_layers": 0,
        "model.modulated": False,
        "model.dilation": None,
        "model.loss": {"cross_entropy": 1.0, "dice": 0.5},
        "data.init_args.scale_range": [0.5, 1.5],
    }
    # As W&B sends parameters that are written as nested `parameters`.
    second = {"model": {"deform_layers": 2, "dilation": 4, "modulated": True}, "pictures": {"count": 0}}
    server = Server([small | first, small | second])
    with serving(server) as address:
        environment = logged_in | {"WANDB_BASE_URL": address}
        wandb(environment, "sweep", "--project", "tried", "configs/sweep/deform_layers.yaml")
        shipped = yaml.safe_load((ROOT / "configs" / "sweep" / "deform_layers.yaml").read_text())
        assert yaml.safe_load(server.sweep_yaml) == shipped
        wandb(environment, "agent", "--count", "2", f"someone/tried/{SWEEP_ID}")

    # The servers' run ids are run1 and run0, in the order in which they were handed out.
    runs = {path.name.rpartition("-")[2]: path.parents[1] for path in tmp_path.glob("runs/*/*/wandb/offline-run-*")}
    assert set(runs) == {"run1", "run0"}
    configs = {run: yaml.safe_load((folder / "config.yaml").read_text()) for run, folder in runs.items()}
    model, data = configs["run1"]["model"], configs["run1"]["data"]["init_args"]
    assert (model["deform_layers"], model["modulated"], model["dilation"]) == (0, False, None)
    assert (model["loss"], data["scale_range"]) == ({"cross_entropy": 1.0, "dice": 0.5}, [0.5, 1.5])
    model = configs["run0"]["model"]
    assert (model["deform_layers"], model["modulated"], model["dilation"], model["loss"]) == (2, True, 4, None)
    assert configs["run0"]["pictures"]["count"] == 0
    for folder in runs.values():
        assert "val/mIoU" in (folder / "metrics.csv").read_text()
    checkpoints = {run: list(folder.glob("checkpoints/best.ckpt")) for run, folder in runs.items()}
    assert all(checkpoints.values())

    import torch

    names = torch.load(checkpoints["run0"][0], map_location="cpu", weights_only=True)["state_dict"]
    assert sum(name.endswith("offset_conv.weight") for name in names) == 2
    saved = torch.load(checkpoints["run1"][0], map_location="cpu", weights_only=True)
    assert saved["segdcn"]["wandb_id"] == "run1"
    assert not any("offset_conv" in name for name in saved["state_dict"])


@pytest.mark.slow
def test_segdcn_sweep_registers_the_file_and_runs_an_agent(logged_in, sweep_file, tmp_path):
    flags = ["--config", "${args_json_file}", "--runs_dir", "runs", "--name", "one"]
    path = sweep_file({"x": {"values": [1, 2]}}, command=["${env}", "${program}", "fit", *flags], project="mine")
    server = Server([{"x": 2, "epochs": 1}, {"x": 1, "epochs": 1}])
    server.program = str(tmp_path / "bin" / "segdcn")
    with serving(server) as address:
        command = [sys.executable, "-m", "segdcn", "sweep", str(path), "--count", "1"]
        environment = logged_in | {"WANDB_BASE_URL": address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"on other machines: wandb agent mine/{SWEEP_ID}" in done.stdout
    assert yaml.safe_load(server.sweep_yaml)["parameters"] == {"x": {"values": [1, 2]}}
    assert server.project == "mine"
    (table,) = tmp_path.glob("runs/one/*/metrics.csv")
    assert "0,,0.2" in table.read_text()
