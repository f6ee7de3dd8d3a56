"""A signal, noted: what it does in one process of several. Runs that stop are in tests/test_stop_and_resume.py."""

import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher

from segdcn.callbacks.stopping import StopOnSignal
from segdcn.errors import Stopped


def trainer_of(launcher=None, processes=1):
    saved = []
    strategy = SimpleNamespace(launcher=launcher, root_device=torch.device("cpu"))
    return SimpleNamespace(world_size=processes, strategy=strategy, save_checkpoint=saved.append, saved=saved)


def test_who_started_the_others_is_not_killed_when_they_stop_first(tmp_path, monkeypatch):
    """Lightning's first process watches the others, and kills itself where one ends with a code that is not 0."""
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    launcher.procs = [SimpleNamespace(poll=lambda: 143, returncode=143, pid=1, send_signal=lambda signum: None)]
    observer = _ChildProcessObserver(main_pid=0, child_processes=launcher.procs)
    killed = []
    monkeypatch.setattr(observer, "_terminate_all", lambda: killed.append(1))
    observer._run()
    assert killed.pop()
    stopping, trainer = StopOnSignal(tmp_path / "last.ckpt"), trainer_of(launcher)
    stopping.signum = signal.SIGTERM
    with pytest.raises(Stopped):
        stopping._stop(trainer, save=True)
    assert observer._run() and not killed
    assert trainer.saved == [tmp_path / "last.ckpt"]


@pytest.mark.parametrize("processes", [1, 2])
def test_one_process_of_several_does_not_leave_the_others_in_the_sanity_check(tmp_path, processes):
    stopping, trainer = StopOnSignal(tmp_path / "last.ckpt"), trainer_of(processes=processes)
    trainer.sanity_checking = True
    stopping.on_validation_batch_end(trainer, None)
    stopping.signum = signal.SIGTERM
    if processes == 1:
        with pytest.raises(Stopped):
            stopping.on_validation_batch_end(trainer, None)
    else:
        stopping.on_validation_batch_end(trainer, None)
    assert not trainer.saved


class Printing:
    """An output into which something is being printed."""

    def write(self, text):  # noqa: D102
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    def flush(self):  # noqa: D102
        pass


def test_a_signal_in_the_middle_of_a_print_is_noted(tmp_path, monkeypatch):
    stopping = StopOnSignal(tmp_path / "last.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Printing())
        stopping._note(signal.SIGTERM, None)
    assert stopping.signum == signal.SIGTERM


def ask(rank, folder):
    """One of two processes; only the second was asked to stop, and only before the second time they agree."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    stopping, trainer = StopOnSignal(folder), trainer_of(processes=2)
    first = stopping._asked(trainer)
    if rank == 1:
        stopping._note(signal.SIGUSR1, None)
    torch.save([first, stopping._asked(trainer), int(stopping.signum)], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_all_processes_stop_where_one_was_asked_to(tmp_path):
    torch.multiprocessing.spawn(ask, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == [False, True, signal.SIGUSR1]
