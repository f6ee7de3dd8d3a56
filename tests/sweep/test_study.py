"""Trials shared by workers, with an objective that trains nothing."""

import json
import multiprocessing
import subprocess
import sys

import pytest

from segdcn.errors import InvalidDataError, UserError, UserValueError
from segdcn.sweep.file import read_sweep
from segdcn.sweep.study import Study
from segdcn.sweep.worker import work

GRID = {"x": {"values": [0, 1, 2]}, "flag": {"values": [True, None]}}


class Silent:
    """A listener that keeps what it is told."""

    def __init__(self):
        self.told = []

    def __getattr__(self, name):
        return lambda *args: self.told.append((name, *args))


@pytest.fixture
def study(sweep_file, tmp_path):
    """Open a worker's view of one and the same sweep."""

    def open_(parameters=GRID, method="grid", count=None, folder="sweep", lease=60.0, seed=0, **more):
        sweep = read_sweep(sweep_file(parameters, method, **more))
        return Study(sweep, tmp_path / folder, count, seed, lease)

    return open_


def do_all(study):
    """Do every trial with x as its score; gives the numbers done."""
    done = []

    def do(trial):
        study.report(trial, [trial.values["x"]])
        assert study.finish(trial, "finished", trial.values["x"])
        done.append(trial.number)

    work(study, do, Silent(), pause=0.01)
    return done


def test_a_grid_is_done_once_and_values_keep_their_types(study):
    values = [1, True, 1.0, None, "1", [1, 2.5], {"dice": 0.5}]
    opened = study({"x": {"value": 3}, "any": {"values": values}})
    assert do_all(opened) == list(range(7))
    found = [row.values["any"] for row in opened.rows()]
    assert json.dumps(found) == json.dumps(values)  # == would take True for 1
    assert all((row.state, row.score, row.values["x"]) == ("finished", 3.0, 3) for row in opened.rows())
    assert opened.take() is None


def test_two_workers_take_different_trials(study):
    one, other = study(), study()
    taken = [worker.take() for worker in (one, other, one, other, other, one)]
    assert [trial.number for trial in taken] == [0, 1, 2, 3, 4, 5]
    assert {(trial.values["x"], trial.values["flag"]) for trial in taken} == {
        (x, f) for x in range(3) for f in (True, None)
    }
    assert one.take() is None and other.running() == list(range(6))


def in_a_process(file, folder, log, start):
    study = Study(read_sweep(file), folder)

    def do(trial):
        with log.open("a") as lines:
            lines.write(f"{trial.number}\n")
        study.finish(trial, "finished", trial.values["x"])

    start.wait()
    work(study, do, Silent(), pause=0.01)


def test_processes_at_once_lose_no_trial_and_double_none(sweep_file, tmp_path):
    """They start together and trials take no time, so that all they do is to take trials."""
    file, log = sweep_file({"x": {"min": 1, "max": 60}}), tmp_path / "done.log"
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    arguments = (file, tmp_path / "sweep", log, start)
    workers = [context.Process(target=in_a_process, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert sorted(map(int, log.read_text().split())) == list(range(60))


def test_a_random_sweep_draws_the_same_whoever_draws(study):
    spec = {"x": {"min": 0.0, "max": 1.0}, "lr": {"distribution": "log_uniform_values", "min": 0.001, "max": 1}}
    alone, first = study(spec, "random", count=4, folder="a"), study(spec, "random", count=4, folder="b")
    second = study(spec, "random", count=4, folder="b")
    drawn = [alone.take().values for _ in range(4)]
    assert drawn == [worker.take().values for worker in (first, second, second, first)]
    assert len({values["lr"] for values in drawn}) == 4
    assert all(0 <= values["x"] <= 1 and 0.001 <= values["lr"] <= 1 for values in drawn)


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_any_whole_number_is_a_seed(study, method):
    spec = {"x": {"min": 0.0, "max": 1.0}}
    drawn = [
        study(spec, method, count=1, folder=str(seed), seed=seed).take().values["x"] for seed in (0, 1, 20261123, -1)
    ]
    assert len(set(drawn)) == 4


def test_a_bayesian_sweep_finds_the_better_half(study):
    """After ten random trials most of the draws are near the best, x = 1."""
    opened = study({"x": {"min": 0.0, "max": 1.0}}, "bayes", count=30)
    do_all(opened)
    later = [row.values["x"] for row in opened.rows()[12:]]
    assert sum(x > 0.5 for x in later) > 0.7 * len(later)


def test_a_finished_sweep_goes_on_when_asked_for_more(study):
    spec = {"x": {"min": 0.0, "max": 1.0}}
    assert do_all(study(spec, "random", count=2)) == [0, 1]
    assert do_all(study(spec, "random", count=2)) == []
    assert do_all(study(spec, "random", run_cap=5)) == [2, 3, 4]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_without_an_end_is_refused(study, method):
    with pytest.raises(UserValueError, match="give --count, or run_cap in the file"):
        study({"x": {"min": 0.0, "max": 1.0}}, method)


# What is left behind


def test_a_trial_that_was_given_up_is_gone_on_with_at_once(study):
    one, other = study(), study()
    trial = one.take()
    one.give_up(trial, seconds=5.0)
    again = other.take()
    assert (again.number, again.values, again.goes_on) == (0, trial.values, True)
    assert other.rows()[0].facts == {"seconds": 5.0}


def test_a_silent_worker_s_trial_is_taken_over_once(study):
    """A lease below 0 s: every claim is dead at once."""
    silent, other, third = study(lease=-1.0), study(lease=-1.0), study(lease=-1.0)
    trial, again = silent.take(), other.take()
    assert (again.number, again.goes_on) == (trial.number, True)
    # The first worker was only slow: it learns that the trial is not its own any more.
    assert not silent.beat(trial) and not silent.finish(trial, "finished", 1.0)
    assert other.rows()[0].state == "running"
    # A second death: whatever kills its worker does not get a third.
    assert third.take().number == 1
    row = third.rows()[0]
    assert (row.state, row.facts["reason"]) == ("failed", "its worker died twice")


def test_a_worker_on_another_machine_that_gives_signs_of_life_keeps_its_trial(study, monkeypatch):
    one, other = study(lease=60.0), study(lease=60.0)
    with monkeypatch.context() as patch:
        patch.setattr("segdcn.sweep.claims._machine", lambda: "elsewhere")  # process ids say nothing here
        trial = one.take()
        assert one.beat(trial, 2**22 + 1) and one.beat(trial, 2**22 + 1)
    assert other.take().number == 1
    assert one.finish(trial, "finished", 1.0)


def test_a_worker_killed_on_this_machine_is_known_to_be_dead_at_once(study, monkeypatch):
    one, other = study(), study()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: gone.pid)
        trial = one.take()
    assert other.take() == type(trial)(0, trial.values, goes_on=True)


def test_a_trial_is_held_while_its_process_lives_on_without_its_worker(study, monkeypatch):
    one, other = study(), study()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: gone.pid)
            assert one.beat(one.take(), child.pid)
        assert other.take().number == 1
    assert other.take().number == 0


def test_a_worker_killed_between_two_steps_of_taking_leaves_nothing_lost(study):
    one, other = study(), study()
    one._study.enqueue_trial(one._encode(one._grid[0]))  # killed before ask
    assert (other.take().number, other._grid[0]) == (0, other.rows()[0].values)
    assert one._ask() == 1  # killed before drawing and claiming
    again = other.take()
    assert (again.number, again.values, again.goes_on) == (1, other._grid[1], True)
    assert [other.take().number for _ in range(4)] == [2, 3, 4, 5] and other.take() is None


def test_a_worker_killed_while_it_keeps_the_file_leaves_a_folder_to_go_on_in(study, tmp_path, monkeypatch):
    def killed(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pathlib.Path.replace", killed)
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: None)
        study()
    assert [path.name for path in (tmp_path / "sweep").glob("sweep.yaml*")] == ["sweep.yaml.part"]
    assert do_all(study()) == [0, 1, 2, 3, 4, 5]


def test_a_torn_last_line_of_the_journal_is_cut_off(study, tmp_path):
    opened = study()
    opened.finish(opened.take(), "finished", 1.0)
    journal = tmp_path / "sweep" / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "wor')
    again = study()
    assert do_all(again) == [1, 2, 3, 4, 5]
    assert len(study().rows()) == 6


def test_a_damaged_journal_is_said_in_a_line(study, tmp_path):
    opened = study()
    opened.take()
    journal = tmp_path / "sweep" / "study.journal"
    journal.write_bytes(b"\x00" * 30 + b"\n" + journal.read_bytes())
    with pytest.raises(InvalidDataError, match="study.journal is damaged"):
        study()


def test_a_folder_of_another_sweep_or_of_other_files_is_refused(study, tmp_path):
    study()
    with pytest.raises(UserValueError, match="holds a sweep with another parameters; choose another --folder"):
        study({"x": {"value": 1}})
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").touch()
    with pytest.raises(UserValueError, match="holds files that are no sweep's, such as thesis.tex"):
        study(folder="own")
    study(description="says something else")  # what changes nothing may change


# Failures and early ends


def test_a_failed_trial_is_recorded_and_the_rest_go_on(study):
    opened = study()

    def do(trial):
        failed = trial.number == 1
        opened.finish(
            trial, "failed" if failed else "finished", None if failed else 1.0, reason="no disk" if failed else ""
        )

    work(opened, do, Silent())
    assert [row.state for row in opened.rows()] == ["finished", "failed", *["finished"] * 4]
    assert opened.rows()[1].facts["reason"] == "no disk" and opened.rows()[1].score is None


def test_a_sweep_whose_first_trials_all_fail_stops(study):
    opened = study()
    with pytest.raises(UserError, match="the first 3 trials have failed, the last with: no data; mend"):
        work(opened, lambda trial: opened.finish(trial, "failed", reason="no data"), Silent())
    assert len(opened.rows()) == 3


def test_a_sweep_that_was_given_up_goes_on_with_the_rest_by_the_same_command(study):
    with pytest.raises(UserError):
        work(opened := study(), lambda trial: opened.finish(trial, "failed", reason="no memory"), Silent())
    assert do_all(study()) == [3, 4, 5]
    assert [row.state for row in study().rows()] == ["failed"] * 3 + ["finished"] * 3


@pytest.mark.parametrize(("goal", "sign"), [("maximize", 1), ("minimize", -1)])
def test_hyperband_stops_the_poor_where_it_is_due(study, goal, sign):
    """Judged at validations 1 and 2: of two that came as far, the better one goes on."""
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    opened = study({"x": {"min": 1, "max": 3}}, early_terminate=early, metric={"name": "val/mIoU", "goal": goal})
    good, poor, middling = (opened.take() for _ in range(3))
    assert not opened.report(good, [sign * 0.5])
    assert opened.report(poor, [sign * 0.4])
    assert not opened.report(good, [sign * 0.5, sign * 0.9])
    assert not opened.report(middling, [sign * 0.6])
    # Judged by its best so far, not by its last.
    assert opened.report(middling, [sign * 0.6, sign * 0.1])
    opened.finish(poor, "stopped early")
    row = opened.rows()[1]
    assert (row.state, row.score, row.validations) == ("stopped early", sign * 0.4, 1)
    assert opened.rows()[2].score == sign * 0.6


def test_a_worker_waits_for_the_others_and_goes_on_with_what_they_leave(study):
    one, other = study(), study()
    for _ in range(5):
        one.finish(one.take(), "finished", 1.0)
    left = one.take()
    listener = Silent()

    def waits(*args):
        listener.told.append(args)
        one.give_up(left)

    listener.waits = waits
    work(other, lambda trial: other.finish(trial, "finished", 2.0), listener, pause=0.01)
    assert listener.told == [([5],)]
    assert [row.score for row in other.rows()] == [1.0] * 5 + [2.0]
