"""Workers of a loader."""

import os
import signal

import pytest
from torch.utils.data import DataLoader

from segdcn.data.loading import start_worker


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_run_leaves_its_workers_at_work(signum):
    loader = DataLoader(list(range(20)), num_workers=1, worker_init_fn=start_worker)
    batches = iter(loader)
    found = [int(next(batches))]  # the worker has begun
    for worker in batches._workers:
        os.kill(worker.pid, signum)
    assert found + [int(batch) for batch in batches] == list(range(20))
