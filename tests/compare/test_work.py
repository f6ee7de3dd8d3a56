"""Which runs are done, in which order, with a stand-in for training."""

import io
import json
import os
from dataclasses import asdict

import pytest
from rich.console import Console

from segdcn.compare import job as jobs
from segdcn.compare.plan import Job
from segdcn.compare.record import read_record, read_records, record_file
from segdcn.compare.work import only_one, read_failures, work
from segdcn.errors import InvalidDataError, UserError, UserValueError
from segdcn.training_process import TrainingProcess


class Trained(list):
    """Names of the runs that were trained, in order; those in `fail` fail, Ctrl-C comes in those in `interrupt`."""

    def __init__(self, monkeypatch, make_record):
        super().__init__()
        self.fail, self.interrupt, self._make_record = set(), set(), make_record
        monkeypatch.setattr(jobs, "do", self._do)

    def _do(self, folder, plan, job, told, held):
        if job.name in self.interrupt:
            raise KeyboardInterrupt
        self.append(job.name)
        if job.name in self.fail:
            raise jobs.JobFailed("killed by SIGKILL")
        record = self._make_record(plan, job)
        record_file(folder, job).write_text(json.dumps(asdict(record)))
        return record


@pytest.fixture
def trained(monkeypatch, make_record):
    return Trained(monkeypatch, make_record)


@pytest.fixture
def console():
    return Console(quiet=True)


def test_a_finished_run_is_not_done_again_and_an_interrupted_comparison_goes_on(tmp_path, plan, trained, console):
    trained.interrupt = {"deform_layers=1-seed1"}
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, plan, console, lock=0)
    assert len(trained) == 4
    trained.interrupt = set()
    assert work(tmp_path, plan, console, lock=0) == {}
    assert list(trained) == [job.name for job in plan.jobs()]
    assert read_records(tmp_path, plan) == [trained._make_record(plan, job) for job in plan.jobs()]


def test_a_run_that_fails_does_not_end_the_others_and_is_tried_again(tmp_path, plan, trained, console):
    trained.fail = {"deform_layers=3-seed0"}
    assert work(tmp_path, plan, console, lock=0) == {"deform_layers=3-seed0": "killed by SIGKILL"}
    assert len(trained) == 9 and len(read_records(tmp_path, plan)) == 8
    assert read_failures(tmp_path, plan) == {"deform_layers=3-seed0": "killed by SIGKILL"}
    trained.fail = set()
    assert work(tmp_path, plan, console, lock=0) == read_failures(tmp_path, plan) == {}
    assert trained[9:] == ["deform_layers=3-seed0"]


def test_a_report_is_due_after_each_seed_but_the_last_and_only_where_something_was_done(
    tmp_path, plan, trained, console
):
    done = []
    work(tmp_path, plan, console, 0, lambda: done.append(len(trained)))
    assert done == [3, 6]
    work(tmp_path, plan, console, 0, lambda: done.append(len(trained)))
    assert done == [3, 6]


def test_a_log_names_the_comparison_and_says_how_long_the_rest_may_take(tmp_path, plan, trained):
    console = Console(file=io.StringIO(), width=300)
    work(tmp_path, plan, console, lock=0)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "tried  run 1 of 9  deform_layers=0-seed0: begins"
    assert lines[1] == "tried  run 1 of 9  deform_layers=0-seed0: mIoU 0.6000  0:00:00  about 0:00:00 left"
    assert lines[-1].endswith("mIoU 0.7000  0:00:00")


def test_how_far_a_run_is_comes_from_its_log(tmp_path):
    log = tmp_path / "x.log"
    assert jobs.course(log) == "begins"
    log.write_text("segdcn: training\n" + "epoch 1/4  loss 0.5\n" * 300 + "epoch 2/4  loss 0.4  batch 3/9\nWarning\n")
    assert jobs.course(log) == "epoch 2/4  loss 0.4  batch 3/9"


def test_what_fails_every_variant_ends_the_comparison(tmp_path, plan, trained, console):
    trained.fail = {job.name for job in plan.jobs()}
    with pytest.raises(UserError, match="every variant has failed, the last with: killed by SIGKILL"):
        work(tmp_path, plan, console, lock=0)
    assert len(trained) == 3


def test_two_processes_do_not_work_on_one_comparison(tmp_path):
    with only_one(tmp_path), pytest.raises(UserValueError, match="another process works on"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_comparison_is_taken_as_long_as_a_process_of_it_lives(tmp_path):
    """As after a kill: the one that trained still saves, and must not be met by another."""
    sleeper = TrainingProcess(tmp_path / "log")
    with only_one(tmp_path) as lock:
        sleeper.run(["sleep", "60"], {"PATH": os.environ["PATH"]}, [lock])
    try:
        with pytest.raises(UserValueError, match="another process works on"), only_one(tmp_path):
            pass
    finally:
        sleeper.kill()
    with only_one(tmp_path):
        pass


def test_a_record_that_does_not_belong_is_refused(tmp_path, plan, trained, console):
    work(tmp_path, plan, console, lock=0)
    first, second, *_ = plan.jobs()
    path = record_file(tmp_path, first)
    path.write_text(record_file(tmp_path, second).read_text())
    with pytest.raises(InvalidDataError, match="of a run with other settings"):
        read_record(tmp_path, plan, first)
    path.write_text(path.read_text()[:100])
    with pytest.raises(InvalidDataError, match="is damaged; delete it"):
        read_record(tmp_path, plan, first)


def test_a_run_goes_on_from_what_it_saved(tmp_path, plan):
    job = Job(plan.variants[2], 1)
    command = jobs.fit_command(tmp_path, plan, job)
    assert command[3:8] == ["fit", "--config", "base.yaml", "--model.lr=0.1", "--model.deform_layers=3"]
    assert {"--seed_everything=1", "--data.seed=1", "--name=deform_layers=3-seed1"} <= set(command)
    assert "--ckpt_path=last" not in command
    saved = tmp_path / "runs" / job.name / "then" / "checkpoints" / "last.ckpt"
    saved.parent.mkdir(parents=True)
    saved.touch()
    assert "--ckpt_path=last" in jobs.fit_command(tmp_path, plan, job)


def test_predictions_are_kept_of_the_first_seed_only(tmp_path, plan):
    kept = [
        next(word for word in jobs.validate_command(tmp_path, plan, job, tmp_path) if ".predictions=" in word)
        for job in (Job(plan.variants[0], 0), Job(plan.variants[0], 1))
    ]
    assert kept == ["--trainer.callbacks.predictions=200", "--trainer.callbacks.predictions=0"]


def test_what_was_trained_is_only_measured(tmp_path, plan, monkeypatch):
    started = []
    monkeypatch.setattr(jobs, "_process", lambda folder, plan, job, command, held, look: started.append(command[3]))
    job = next(plan.jobs())
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"{job.name}.trained").touch()
    with pytest.raises(jobs.JobFailed, match="has a last.ckpt"):  # its weights are gone: trained anew, in vain here
        jobs.do(tmp_path, plan, job, print)
    assert started == ["fit"]
    started.clear()
    saved = tmp_path / "runs" / job.name / "then" / "checkpoints" / "last.ckpt"
    (tmp_path / "validations" / job.name / "then").mkdir(parents=True)
    saved.parent.mkdir(parents=True)
    saved.touch()
    with pytest.raises(jobs.JobFailed, match="no pixel of the validation set has a label"):
        jobs.do(tmp_path, plan, job, print)
    assert started == ["validate"]
