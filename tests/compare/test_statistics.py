import pytest

from segdcn.compare.statistics import paired, spread


def test_the_spread_is_that_of_a_sample():
    """60, 62 and 64: mean 62, variance (4 + 0 + 4) / 2."""
    found = spread({0: 60.0, 1: 62.0, 2: 64.0})
    assert (found.mean, found.std) == (62.0, 2.0)
    assert found.standard_error == pytest.approx(2 / 3**0.5)
    assert found.interval == pytest.approx((62 - 4.9683, 62 + 4.9683), abs=1e-4)  # scipy.stats.t.interval


def test_one_value_has_no_spread_and_what_is_undefined_is_left_out():
    found = spread({0: 60.0, 1: None, 2: float("nan")})
    assert (found.mean, found.std, found.standard_error, found.interval) == (60.0, None, None, None)
    assert spread({0: None}) is None


def test_differences_are_taken_within_a_seed():
    """Both vary by 10 over the seeds, and their difference by 1: 2, 3, 4."""
    found = paired({0: 52.0, 1: 63.0, 2: 74.0, 3: 1.0}, {0: 50.0, 1: 60.0, 2: 70.0})
    assert dict(found.values) == {0: 2.0, 1: 3.0, 2: 4.0}
    assert (found.mean, found.std) == (3.0, 1.0)
    assert paired({0: 1.0}, {1: 1.0}) is None
