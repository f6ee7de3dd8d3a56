"""Memory is given back when the last process that used it ends, and not before."""

import multiprocessing
import os
import signal

from segdcn.data.shared_folder import Hold

FORK = multiprocessing.get_context("fork")


def use(folder, ready, leave):
    hold = Hold(folder)
    ready.set()
    leave.wait()
    hold.release()


def user(folder):
    ready, leave = FORK.Event(), FORK.Event()
    process = FORK.Process(target=use, args=(folder, ready, leave))
    process.start()
    assert ready.wait(30)
    return process, leave


def test_a_folder_goes_with_the_last_that_holds_it(tmp_path):
    folder = tmp_path / "all" / "one"
    first, second = Hold(folder), Hold(folder)
    first.release()
    assert folder.is_dir()
    del second
    assert not folder.exists() and not list(folder.parent.iterdir())


def test_another_process_keeps_the_folder(tmp_path):
    folder = tmp_path / "all" / "one"
    mine = Hold(folder)
    process, leave = user(folder)
    mine.release()
    assert folder.is_dir()
    leave.set()
    process.join()
    assert not folder.exists()


def test_a_forked_worker_that_ends_removes_nothing(tmp_path):
    folder = tmp_path / "all" / "one"
    mine = Hold(folder)
    worker = FORK.Process(target=mine.release)
    worker.start()
    worker.join()
    assert worker.exitcode == 0 and folder.is_dir()
    mine.release()
    assert not folder.exists()


def test_what_a_killed_process_held_is_removed_by_the_next_and_what_others_hold_is_not(tmp_path):
    parent = tmp_path / "all"
    killed, _ = user(parent / "killed")
    living, leave = user(parent / "living")
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    (parent / "killed" / "data").write_text("left")
    mine = Hold(parent / "mine")
    assert sorted(path.name for path in parent.iterdir()) == ["living", "mine"]
    leave.set()
    living.join()
    mine.release()


def test_what_a_killed_process_held_is_taken_over_by_the_next_of_the_same_name(tmp_path):
    folder = tmp_path / "all" / "one"
    killed, _ = user(folder)
    (folder / "data").write_text("left")
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    mine = Hold(folder)
    assert (folder / "data").read_text() == "left"
    mine.release()
    assert not folder.exists()
