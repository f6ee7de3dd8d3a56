"""Workers of a loader."""

import signal
import subprocess
import sys

import pytest
import torch

from segdcn.data.loading import Loader, start_worker


@pytest.fixture
def threads():
    """Let torch have threads, with which it begins in workers too."""
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_at_work(signum, threads):
    loader = Loader(list(range(20)), num_workers=1, worker_init_fn=start_worker)
    batches = iter(loader)
    found = [int(next(batches))]  # the worker has begun
    for worker in batches._workers:  # not from this process, whose SIGTERM ends them
        subprocess.run(["kill", f"-{signum.value}", str(worker.pid)], check=True)
    assert found + [int(batch) for batch in batches] == list(range(20))


HELD = """
import builtins, sys
from segdcn.data.loading import Loader, start_worker
loader = Loader(list(range(2000)), num_workers=2, worker_init_fn=start_worker, persistent_workers=True)
builtins.held = iter(loader)  # to the very end, when processes that are left are told to go
next(builtins.held)
if sys.argv[1] == "fails":
    raise RuntimeError("on purpose")
"""


@pytest.mark.parametrize("ending", ["ends", "fails"])
def test_a_run_that_ends_ends_its_workers(ending):
    done = subprocess.run([sys.executable, "-c", HELD, ending], capture_output=True, text=True, timeout=100)
    assert done.returncode == (ending == "fails"), done.stderr
