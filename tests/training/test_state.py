"""What a checkpoint needs for training to go on from it."""

import pytest

from segdcn.errors import InvalidDataError
from segdcn.fitting import check_state

WHOLE = {
    "epoch": 1,
    "global_step": 8,
    "loops": {"fit_loop": {"epoch_progress": {}}},
    "callbacks": {},
    "optimizer_states": [{}],
    "pytorch-lightning_version": "2.6.6",
    "segdcn": {},
}


def test_a_whole_one_is_taken_and_so_is_one_from_before_the_first_step():
    check_state(WHOLE, "a.ckpt")
    check_state({"epoch": 0, "global_step": 0, "optimizer_states": [], "pytorch-lightning_version": "2.6.6"}, "a.ckpt")


@pytest.mark.parametrize("part", sorted(WHOLE.keys() - {"segdcn"}))
def test_one_that_was_trained_lacks_nothing(part):
    with pytest.raises(InvalidDataError, match=f"holds nothing as '{part}'"):
        check_state({key: value for key, value in WHOLE.items() if key != part}, "a.ckpt")
    with pytest.raises(InvalidDataError, match=f"holds something else as '{part}'"):
        check_state(WHOLE | {part: 3.5}, "a.ckpt")
