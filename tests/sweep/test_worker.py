"""Workers and the processes they start, with a stand-in for training (conftest.py)."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from segdcn import cli
from segdcn.sweep.trial import trial_environment
from segdcn.training_process import read_metric


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run `segdcn sweep tried.yaml --local` here; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        code = cli.main(["sweep", "tried.yaml", "--local", *flags])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def start(tmp_path, *flags):
    """Start a worker in a process of its own."""
    command = [sys.executable, "-m", "segdcn", "sweep", "tried.yaml", "--local", *flags]
    with (tmp_path / "worker.log").open("a") as log:
        return subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def epochs(tmp_path):
    """How often each trial did each epoch."""
    log = tmp_path / "sweeps" / "tried" / "epochs.log"
    return Counter(log.read_text().splitlines()) if log.exists() else Counter()


def rows(tmp_path):
    with (tmp_path / "sweeps" / "tried" / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_ends_with_a_table_a_picture_and_the_best_command(sweep_file, tmp_path, call):
    sweep_file({"x": {"values": [1, 3, 2]}, "epochs": {"value": 2}, "model.dilation": {"value": None}})
    code, out, err = call("--json=out.json")
    assert (code, err) == (0, "")
    assert "trial 1 finished  val/mIoU 0.6000" in out
    table = out[out.index("tried, grid") :]
    assert [line.split("│")[1].strip() for line in table.splitlines() if "│" in line] == ["1", "2", "0"]
    assert "segdcn fit --x 3 --epochs 2 --model.dilation null" in out
    assert [(row["trial"], row["state"], row["x"], row["val/mIoU"]) for row in rows(tmp_path)] == [
        *(("0", "finished", "1", "0.2"), ("1", "finished", "3", "0.6"), ("2", "finished", "2", "0.4")),
    ]
    assert (tmp_path / "sweeps" / "tried" / "parallel.png").stat().st_size > 10_000
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["best"], told["trials"][1]["values"]["model.dilation"], told["trials"][1]["score"]) == (1, None, 0.6)
    assert "segdcn fit --x 3" in told["command"]
    # Again: there is nothing left to do, and the same is told.
    code, again, _ = call()
    assert code == 0 and "begins" not in again and "segdcn fit --x 3" in again
    assert set(epochs(tmp_path).values()) == {1}


@pytest.mark.parametrize(("how", "reason"), [("fail", "it cannot work; mend it"), ("die", "killed by SIGKILL")])
def test_a_trial_that_fails_is_told_and_the_rest_go_on(sweep_file, tmp_path, call, how, reason):
    sweep_file({"x": {"value": 1}, "epochs": {"value": 1}, how: {"values": [True, False]}})
    code, out, _ = call()
    assert code == 0
    assert re.search(rf"trial 0 failed  \S+: {reason}\n", out)
    assert [row["state"] for row in rows(tmp_path)] == ["failed", "finished"]


def test_a_trial_without_the_metric_has_failed_and_a_sweep_without_a_best_says_so(sweep_file, tmp_path, call):
    sweep_file({"x": {"value": 1}, "epochs": {"value": 1}, "mute": {"value": True}})
    code, out, _ = call()
    assert code == 1 and "none: no trial has finished" in out
    assert rows(tmp_path)[0]["reason"] == "it logged no val/mIoU"


def test_a_poor_trial_is_stopped_early_by_ctrl_c(sweep_file, tmp_path, call):
    parameters = {"x": {"values": [2, 1]}, "epochs": {"value": 4}, "pause": {"value": 0.4}}
    sweep_file(parameters, early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2})
    code, out, _ = call()
    assert code == 0
    first, second = rows(tmp_path)
    assert (first["state"], first["val/mIoU"], second["state"]) == ("finished", "0.8", "stopped early")
    assert int(second["validations"]) < 4
    (stopped,) = tmp_path.glob("sweeps/tried/runs/trial-001/*")
    assert (stopped / "interrupted").exists()


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_stopped_worker_stops_its_trial_and_says_how_to_go_on(sweep_file, tmp_path, signum, name):
    sweep_file({"x": {"values": [1, 2]}, "epochs": {"value": 4}, "pause": {"value": 0.5}})
    worker = start(tmp_path)
    wait_for(lambda: epochs(tmp_path)["trial-000 1"])
    worker.send_signal(signum)
    assert worker.wait(60) == 128 + signum
    said = (tmp_path / "worker.log").read_text()
    assert re.search(rf"stopped by {name}; go on with the same command \(the sweep is in .*/sweeps/tried\)", said)
    assert list(tmp_path.glob("sweeps/tried/runs/trial-000/*/interrupted"))

    assert start(tmp_path).wait(60) == 0
    assert "trial 0 goes on  x=1" in (tmp_path / "worker.log").read_text()
    done = epochs(tmp_path)
    assert (done["trial-000 0"], done["trial-000 3"], done["trial-001 3"]) == (1, 1, 1)
    assert len(list(tmp_path.glob("sweeps/tried/runs/trial-000/*"))) == 1


def test_two_workers_one_killed_lose_no_trial_and_double_none(sweep_file, tmp_path):
    sweep_file({"x": {"values": [1, 2, 3, 4, 5]}, "epochs": {"value": 3}, "pause": {"value": 0.3}})
    killed, other = start(tmp_path), start(tmp_path)
    wait_for(lambda: len({line.split()[0] for line in epochs(tmp_path)}) >= 2)
    killed.kill()
    killed.wait()
    assert other.wait(120) == 0
    table = rows(tmp_path)
    assert [(row["state"], float(row["val/mIoU"])) for row in table] == [
        ("finished", pytest.approx(0.3 * x)) for x in (1, 2, 3, 4, 5)
    ]
    # What the killed worker had begun was gone on with: at most the interrupted epoch was done twice.
    done = epochs(tmp_path)
    assert len(done) == 15 and sum(done.values()) <= 16


def test_a_killed_worker_takes_its_process_with_it(sweep_file, tmp_path):
    sweep_file({"x": {"value": 1}, "epochs": {"value": 1000}, "pause": {"value": 0.1}})
    worker = start(tmp_path)
    claim = tmp_path / "sweeps" / "tried" / "claims" / "000.json"
    wait_for(lambda: claim.exists() and json.loads(claim.read_text())["child"])
    child = json.loads(claim.read_text())["child"]
    worker.kill()
    worker.wait()
    wait_for(lambda: not os.path.exists(f"/proc/{child}"))


def test_a_run_that_was_complete_when_its_worker_died_is_finished_not_failed(sweep_file, tmp_path, call):
    sweep_file({"x": {"value": 1}, "epochs": {"value": 3}})
    run = tmp_path / "sweeps" / "tried" / "runs" / "trial-000" / "2026-01-01_00-00-00"
    assert call("--dry_run")[0] == 0 and not run.exists()
    from segdcn.sweep.file import read_sweep
    from segdcn.sweep.study import Study

    study = Study(read_sweep(tmp_path / "tried.yaml"), tmp_path / "sweeps" / "tried")
    study.give_up(study.take())
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("3")
    (run / "metrics.csv").write_text("step,val/mIoU\n0,0.1\n1,0.3\n2,0.2\n")
    assert call()[0] == 0
    (row,) = rows(tmp_path)
    assert (row["state"], row["val/mIoU"], row["validations"]) == ("finished", "0.3", "3")


def test_a_dry_run_prints_the_commands_and_does_nothing(sweep_file, tmp_path, call):
    sweep_file({"x": {"values": [1, None]}}, project="mine")
    code, out, _ = call("--dry_run")
    assert code == 0
    assert 'trial 1  {"x": null}\n  /usr/bin/env ' in out
    assert re.search(r"fit --config \S+/trials/trial-001/args.json --runs_dir \S+/tried/runs --name trial-001", out)
    assert "--wandb_project mine" in out
    assert not (tmp_path / "sweeps").exists()


def test_the_report_file_is_tried_before_the_work(sweep_file, tmp_path, call):
    sweep_file({"x": {"value": 1}})
    code, _, err = call("--json=nowhere/out.json")
    assert code == 2 and "json is nowhere/out.json" in err
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--local --count 0", "count is 0; it must be 1 or more"),
        ("--count 0", "count is 0; it must be 1 or more"),  # W&B's agent would take it for no end
        ("--folder x", "--folder is for local sweeps; add --local"),
        ("--seed 3", "--seed is for local sweeps; add --local"),
        ("", "nobody is logged in to Weights & Biases: run `wandb login`, or sweep without it: --local"),
    ],
)
def test_bad_input_is_one_line(sweep_file, tmp_path, monkeypatch, capsys, flags, message):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.chdir(tmp_path)
    sweep_file({"x": {"value": 1}})
    assert cli.main(["sweep", "tried.yaml", *flags.split()]) == 2
    assert capsys.readouterr().err == f"segdcn: error: {message}\n"
    assert not (tmp_path / "sweeps").exists()


def test_without_optuna_a_local_sweep_names_the_cure_and_wandb_s_needs_none(sweep_file, tmp_path):
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "from segdcn import cli\n"
        "assert cli.main(['sweep', 'tried.yaml', '--dry_run']) == 0\n"
        "assert cli.main(['sweep', 'tried.yaml', '--local']) == 2"
    )
    sweep_file({"x": {"value": 1}})
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "would register tried.yaml (grid, 1 parameters) and run an agent" in done.stdout
    assert done.stderr == "segdcn: error: a local sweep needs Optuna: pip install optuna\n"


def test_the_metric_is_read_while_the_table_is_written(tmp_path):
    table = tmp_path / "metrics.csv"
    assert read_metric(table, "val/mIoU") == []
    table.write_text(
        "step,loss,val/mIoU\n0,1.0,\n1,,0.25\n2,,nan\n2,,inf\n3,,0.5\n4,,0.4"
    )  # the last line is being written
    assert read_metric(table, "val/mIoU") == [0.25, 0.5]
    assert read_metric(table, "val/loss") == []


def test_a_trial_s_wandb_run_is_offline_in_the_sweep_s_group_and_no_other_run_s(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    monkeypatch.setenv("WANDB_MODE", "online")
    environment = trial_environment("layers")
    assert (environment["WANDB_MODE"], environment["WANDB_RUN_GROUP"]) == ("offline", "layers")
    assert "WANDB_RUN_ID" not in environment
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert trial_environment("layers")["WANDB_MODE"] == "disabled"
