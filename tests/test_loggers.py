import csv
import glob
import os
from unittest import mock

import pytest
import wandb

from segdcn.loggers import CSVLog, has_wandb_key, wandb_logger


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once_and_new_metrics_get_a_column(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CSVLog(path)
    log.log_metrics({"loss": 1.5}, step=0)
    assert rows(path) == [{"step": "0", "loss": "1.5"}]
    log.log_metrics({"mIoU": 0.25}, step=1)
    assert rows(path) == [{"step": "0", "loss": "1.5", "mIoU": ""}, {"step": "1", "loss": "", "mIoU": "0.25"}]


def test_a_second_log_goes_on_with_the_file(tmp_path):
    path = tmp_path / "metrics.csv"
    CSVLog(path).log_metrics({"loss": 1.5}, step=0)
    CSVLog(path).log_metrics({"mIoU": 0.5, "loss": 1.0}, step=1)
    assert rows(path) == [{"step": "0", "loss": "1.5", "mIoU": ""}, {"step": "1", "loss": "1.0", "mIoU": "0.5"}]
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_a_row_that_was_cut_short_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    for step in range(3):
        CSVLog(path).log_metrics({"loss": 0.25, "lr": 0.5}, step=step)
    path.write_text(path.read_text()[:-6])
    CSVLog(path).drop_from(3)
    assert [row["step"] for row in rows(path)] == ["0", "1"]


def test_dropped_rows_are_written_again_without_a_trace(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CSVLog(path)
    log.drop_from(0)
    assert not path.exists()
    for step in range(4):
        log.log_metrics({"loss": float(step)}, step=step)
    CSVLog(path).drop_from(2)
    assert [row["step"] for row in rows(path)] == ["0", "1"]
    CSVLog(path).log_metrics({"loss": 5.0}, step=2)
    assert rows(path)[-1] == {"step": "2", "loss": "5.0"}
    assert os.listdir(tmp_path) == ["metrics.csv"]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_a_key_is_found_where_wandb_looks_for_it(no_key, monkeypatch):
    assert not has_wandb_key()
    no_key.write_text("machine elsewhere.example login user password x\n")
    assert not has_wandb_key()
    no_key.write_text("machine api.wandb.ai login user password x\n")
    assert has_wandb_key()
    no_key.unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_wandb_key()


@pytest.mark.parametrize(("mode", "variable"), [("off", "online"), ("auto", "disabled")])
def test_off_starts_nothing(no_key, monkeypatch, tmp_path, mode, variable):
    monkeypatch.setenv("WANDB_MODE", variable)
    logger, line = wandb_logger(mode, "project", "name", tmp_path, "abcdefgh", "fit", {})
    assert (logger, line) == (None, "off")


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_without_a_key_it_is_offline_and_asks_nothing(no_key, tmp_path, monkeypatch, mode):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("prompted"))
    logger, line = wandb_logger(mode, "project", "name", tmp_path, "abcdefgh", "fit", {"model": {"lr": 0.5}})
    run = logger.experiment
    try:
        assert line.startswith("offline") and str(tmp_path) in line
        assert run.id == "abcdefgh" and logger.version == "abcdefgh"
        assert run.config["model"]["lr"] == 0.5
        assert list(tmp_path.glob("wandb/offline-run-*-abcdefgh/*.wandb"))
        # `wandb sync` gets every part of the run, as the shell finds them.
        (tmp_path / "wandb" / "offline-run-20260102_030405-abcdefgh").mkdir()
        assert len(glob.glob(line.partition("wandb sync ")[2])) == 2
        assert "WANDB_MODE" not in os.environ
    finally:
        run.finish()


@pytest.fixture
def server(no_key, monkeypatch):
    """W&B with a key, and what its `init` is asked for; `refuses` has it fail online."""
    asked = mock.Mock(refuses=False, calls=[])

    def init(**arguments):
        asked.calls.append(arguments)
        if asked.refuses and arguments["mode"] == "online":
            raise wandb.errors.CommError("the server does not answer\nTraceback ...")
        return mock.Mock(url="https://wandb.example/one/tried/runs/abcdefgh")

    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr("wandb.init", init)
    monkeypatch.setattr("wandb.teardown", lambda: asked.calls.append("teardown"))
    return asked


def test_with_a_key_the_run_of_that_id_is_online_and_is_gone_on_with(server, tmp_path):
    logger, line = wandb_logger("auto", "project", "name", tmp_path, "abcdefgh", "fit", {})
    (asked,) = server.calls
    assert (asked["mode"], asked["id"], asked["resume"], asked["project"]) == ("online", "abcdefgh", "allow", "project")
    assert line == "https://wandb.example/one/tried/runs/abcdefgh"
    assert logger.experiment.define_metric.call_args.kwargs["summary"] == "max"


def test_without_a_way_to_the_server_the_run_is_offline_under_the_same_id_and_says_why(server, tmp_path):
    server.refuses = True
    _, line = wandb_logger("online", "project", "name", tmp_path, "abcdefgh", "fit", {})
    first, torn_down, second = server.calls
    assert torn_down == "teardown"
    assert (first["mode"], second["mode"], second["id"]) == ("online", "offline", "abcdefgh")
    assert line.startswith("offline (the server does not answer); to upload: wandb sync ")
