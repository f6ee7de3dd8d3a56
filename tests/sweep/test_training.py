"""A shipped sweep file, really trained, without a server: killed, gone on with, by two workers."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from segdcn import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_deform_layers_survives_a_kill_and_a_ctrl_c_and_ends_complete(tmp_path, monkeypatch):
    """Two workers; one is killed in the middle of a trial, then the other is stopped; a third finishes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    assert cli.main(["data", "make-shapes", "--output=datasets/shapes", "--train=8", "--val=2", "--size=32"]) == 0
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    sweep = tmp_path / "sweeps" / "deform_layers"

    def start():
        command = [sys.executable, "-m", "segdcn", "sweep", "configs/sweep/deform_layers.yaml", "--local"]
        with (tmp_path / "worker.log").open("a") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def wait_for(condition):
        until = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < until, (tmp_path / "worker.log").read_text()
            time.sleep(0.2)

    killed = start()
    wait_for(lambda: list(sweep.glob("runs/trial-000/*/checkpoints/last.ckpt")))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    stopped = start()
    other = start()
    wait_for(lambda: list(sweep.glob("runs/trial-001/*/checkpoints/last.ckpt")))
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(120) == cli.EXIT_INTERRUPTED
    assert other.wait(900) == 0, (tmp_path / "worker.log").read_text()

    with (sweep / "trials.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["model.deform_layers"] for row in table] == ["0", "1", "2", "3", "6"]
    assert {row["state"] for row in table} == {"finished"}
    for row in table:
        run = Path(row["run"])
        assert yaml.safe_load((run / "config.yaml").read_text())["model"]["deform_layers"] == int(
            row["model.deform_layers"]
        )
        with (run / "metrics.csv").open(newline="") as file:
            measured = [entry for entry in csv.DictReader(file) if entry["val/mIoU"]]
        # Every epoch is there once, also of the trials that were gone on with.
        assert [entry["epoch"] for entry in measured] == ["0", "1", "2", "3"]
        assert max(float(entry["val/mIoU"]) for entry in measured) == pytest.approx(float(row["val/mIoU"]))
    record = next(Path(table[4]["run"]).glob("wandb/offline-run-*/*.wandb"))
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(record)]
    assert '"run_group":"deform_layers"' in subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    assert (Path(table[0]["run"]) / "config_resumed_1.yaml").exists()
    assert (sweep / "parallel.png").exists()
    said = (tmp_path / "worker.log").read_text()
    assert "trial 0 goes on  model.deform_layers=0" in said
    assert "segdcn fit --config configs/base.yaml" in said and "--trainer.max_epochs 4" in said


@pytest.mark.slow
def test_training_runs_without_network_key_or_writable_home_and_says_what_it_does(tmp_path, monkeypatch):
    """HOME is a file, so nobody can write below it; every way out is a closed port."""
    assert cli.main(["data", "make-shapes", f"--output={tmp_path}/set", "--train=4", "--val=2", "--size=32"]) == 0
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    (tmp_path / "home").touch()
    environment |= {"HOME": str(tmp_path / "home")}
    environment |= {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    files = ["--config", "base.yaml", "--data", "data/shapes.yaml", "--model", "model/deeplabv3plus_r18_dcn.yaml"]
    files = [word if word.startswith("-") else str(ROOT / "configs" / word) for word in files]
    small = ["--data.root", str(tmp_path / "set"), "--data.batch_size", "2", "--data.crop_size", "32"]
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "segdcn", "fit", *files, *small, "--trainer.max_epochs", "1"],
        env=environment, cwd=tmp_path / "work", capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "offline; to upload: wandb sync" in done.stdout
    (run,) = (tmp_path / "work" / "runs").glob("*/*")
    assert list(run.glob("checkpoints/best.ckpt")) and list(run.glob("pictures/*.png"))
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert "Traceback" not in done.stderr and "INFO" not in done.stderr  # W&B's service keeps its log to itself
