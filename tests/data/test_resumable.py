"""Samples shared among processes, and epochs that go on where they stopped."""

import pytest
import torch

from segdcn.data.loading import EpochSampler
from segdcn.data.resumable import ResumableLoader
from segdcn.errors import UserValueError


class Keys(torch.utils.data.Dataset):
    """Gives back the key it is asked for."""

    def __getitem__(self, key):
        return torch.tensor(key)


def loader(workers=0, size=10, rank=0, processes=1, batch_size=2):
    sampler = EpochSampler(size, seed=3, epoch=1, rank=rank, processes=processes)
    return ResumableLoader(
        Keys(), batch_size=batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
    )


def seen(loader):
    return [batch.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_given_is_left_out_once(workers):
    whole = seen(loader(workers))
    stopped = loader(workers)
    iterator = iter(stopped)
    for _ in range(3):
        next(iterator)
    state = stopped.state_dict()
    assert state == {"given": 3, "of": 5}
    again = loader(workers)
    again.load_state_dict(state)
    assert seen(again) == whole[3:]
    assert again.state_dict()["given"] == 0  # the epoch is over
    again.sampler.set_epoch(2)
    following = seen(again)
    assert len(following) == 5 and all(epoch == 2 for batch in following for epoch, _ in batch)


def test_half_an_epoch_cannot_go_on_with_other_batches():
    with pytest.raises(UserValueError, match="after 3 of the 5 batches of an epoch, which has 3 now"):
        loader(batch_size=4).load_state_dict({"given": 3, "of": 5})
    loader(batch_size=4).load_state_dict({"given": 0, "of": 5})  # between epochs it can


def test_processes_share_the_batches_of_one():
    """Two processes with batches of 2 see in each step what one with a batch of 4 sees, and equally much."""
    together = [set(map(tuple, batch)) for batch in seen(loader(size=11, batch_size=4))]
    first, second = (seen(loader(size=11, rank=rank, processes=2)) for rank in (0, 1))
    assert len(first) == len(second) == 3
    for i in range(2):
        assert set(map(tuple, first[i] + second[i])) == together[i]
