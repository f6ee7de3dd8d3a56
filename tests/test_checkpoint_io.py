"""Checkpoint files: the old one or the new one, whole, whatever happens."""

import errno
import multiprocessing
import os
import pickle
import resource
import signal
import time

import pytest
import torch

from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.errors import UserError


def checkpoint(value: float, size: int = 100) -> dict:
    return {"state_dict": {"weight": torch.full((size,), value)}, "epoch": 1}


def value(path) -> float:
    loaded = SafeCheckpointIO().load_checkpoint(path)["state_dict"]["weight"]
    assert (loaded == loaded[0]).all()
    return float(loaded[0])


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new folder" / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1.0), path)
    SafeCheckpointIO().save_checkpoint(checkpoint(2.0), path)
    assert value(path) == 2 and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def write_on_a_full_disk(path, queue):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        SafeCheckpointIO().save_checkpoint(checkpoint(2.0, 1_000_000), path)
    except UserError as error:
        queue.put(str(error))
    else:
        queue.put("written")


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for the full disk."""
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1.0), path)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=write_on_a_full_disk, args=(path, queue))
    process.start()
    message = queue.get(timeout=60)
    process.join()
    assert "the disk is full; the one before it is untouched" in message and "\n" not in message
    assert value(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_system_refuses_is_one_line(code, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1.0), path)

    def refuse(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="could not be written: .*the one before it is untouched"):
        SafeCheckpointIO().save_checkpoint(checkpoint(2.0), path)
    assert value(path) == 1 and not path.with_name("last.ckpt.part").exists()


def write_forever(path):
    number = 0.0
    while True:
        SafeCheckpointIO().save_checkpoint(checkpoint(number, 200_000), path)
        number += 1


def test_kill_9_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    context = multiprocessing.get_context("fork")
    for delay in (0.0, 0.011, 0.023, 0.037, 0.052):
        process = context.Process(target=write_forever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert value(path) >= 0


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_loading_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        SafeCheckpointIO().load_checkpoint("evil.ckpt", weights_only=False)
    assert not (tmp_path / "executed").exists()
