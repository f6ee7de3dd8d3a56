"""Checkpoint files: the old one or the new one, whole, whatever happens."""

import errno
import os
import pickle
import subprocess
import sys
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


ON_A_FULL_DISK = """
import resource, signal, sys, torch
from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    SafeCheckpointIO().save_checkpoint({"weight": torch.zeros(1_000_000)}, sys.argv[1])
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for the full disk."""
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1.0), path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ON_A_FULL_DISK, path], capture_output=True, text=True, timeout=120
    )
    message = done.stdout.strip()
    assert message.endswith("the disk is full; the one before it is untouched; make room") and "\n" not in message, (
        done.stderr
    )
    assert value(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_the_system_refuses_is_one_line(code, tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(1.0), path)

    def refuse(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match="could not be written: .*the one before it is untouched") as error:
        SafeCheckpointIO().save_checkpoint(checkpoint(2.0), path)
    assert ("make room" in str(error.value)) == (code != errno.EIO)
    assert value(path) == 1 and not path.with_name("last.ckpt.part").exists()


WRITE_FOREVER = """
import sys, torch
from segdcn.checkpoint_io import SafeCheckpointIO
number = 0.0
while True:
    weight = torch.full((200_000,), number)
    SafeCheckpointIO().save_checkpoint({"state_dict": {"weight": weight}, "epoch": 1}, sys.argv[1])
    number += 1
"""


def test_kill_9_leaves_a_whole_checkpoint(tmp_path):
    for number, delay in enumerate((0.0, 0.023, 0.052)):
        path = tmp_path / str(number) / "last.ckpt"
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", WRITE_FOREVER, path])
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
        process.wait()
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
