import pytest

from segdcn.callbacks.pictures import Pictures, fixed_indices
from segdcn.errors import UserValueError


def test_indices_are_spread_evenly_and_each_is_there_once():
    assert fixed_indices(101, 5) == [0, 25, 50, 75, 100]
    assert fixed_indices(3, 4) == [0, 1, 2]
    assert fixed_indices(9, 1) == [0]
    assert fixed_indices(4, 0) == []


def test_a_negative_count_is_refused():
    with pytest.raises(UserValueError, match="pictures.count is -1"):
        Pictures(count=-1)
