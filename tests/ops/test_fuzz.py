"""Random deformable convolutions of every stated kind (fuzz.py), a few or 2 x 10,000 of them."""

import pytest
import torch
import torchvision
from fuzz import CATEGORIES, DTYPES, base_positions, draw_case, run
from geometry import Geometry

from segdcn.ops import deform_conv2d

CELLS = len(CATEGORIES) * len(DTYPES)
QUICK = 3 * CELLS


def of_category(category: str, count: int = QUICK) -> range:
    """The numbers of the quick run's cases in one category."""
    return range(CATEGORIES.index(category), count, len(CATEGORIES))


def test_a_few_cases_of_every_category_and_dtype(device):
    report = run(0, range(QUICK), device=device)
    assert [len(cell.forward.every) for cell in report.cells.values()] == [3] * CELLS
    assert not report.failures, "\n".join(report.failures)


@pytest.mark.slow
def test_ten_thousand_cases_and_a_second_seed_like_the_first(capsys):
    first, second = reports = [run(seed, range(10_000)) for seed in (0, 1)]
    with capsys.disabled():
        print(*(f"\nseed {report.seed}\n{report.table()}" for report in reports), sep="\n")
    for report in reports:
        assert len(report.cells) == CELLS
        assert not report.failures, "\n".join(report.failures)
        # What cancellation excuses is rare, or something else is wrong.
        assert len(report.cancelled) <= 30, "\n".join(report.cancelled)
    # The largest of 167 errors is a matter of luck, the size that nine in ten keep to is not.
    for key, cell in first.cells.items():
        other = second.cells[key]
        for errors, again in ((cell.forward, other.forward), (cell.gradient, other.gradient)):
            assert max(errors.usual, again.usual) <= 2 * min(errors.usual, again.usual), key


def test_a_case_depends_on_its_seed_and_number_alone():
    case, again = draw_case(3, 41), draw_case(3, 41)
    assert case.geometry == again.geometry
    assert all(torch.equal(a, b) for a, b in zip(case.tensors.present(), again.tensors.present(), strict=True))
    assert torch.equal(case.grad_output, again.grad_output)
    other = draw_case(4, 41)
    assert other.category == case.category and other.dtype == case.dtype
    assert other.geometry != case.geometry


@pytest.mark.parametrize("category", ["offsets at whole pixels", "offsets at the border"])
def test_the_judge_takes_torchvisions_side_where_slopes_jump(category):
    """The right-hand slope, and at exactly -1 a slope although the value is still 0."""
    double = [n for n in of_category(category, count=600) if draw_case(0, n).dtype == "float64"]
    report = run(0, double, operator=torchvision.ops.deform_conv2d)
    assert len(double) == 10
    assert not report.failures, "\n".join(report.failures)


# ---------------------------------------------------------------- the fuzz run can fail


def positions_without_offset(input, offset, weight, settings):
    """(2*G*K, Ho, Wo), of the dtype that the operator computes positions in."""
    height, width = input.shape[2:]
    kernel = tuple(weight.shape[2:])
    offset_groups = offset.shape[1] // (2 * kernel[0] * kernel[1])
    geometry = Geometry(height=height, width=width, kernel=kernel, offset_groups=offset_groups, **settings)
    return base_positions(geometry).to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def clamps_positions(input, offset, weight, bias, mask, **settings):
    base = positions_without_offset(input, offset, weight, settings)
    height, width = input.shape[2:]
    last = torch.tensor([height - 1, width - 1]).repeat(len(base) // 2)[:, None, None]
    inside = torch.minimum((base + offset).clamp_min(0), last.to(base))
    return deform_conv2d(input, inside - base, weight, bias, mask=mask, **settings)


def takes_the_next_offset_group(input, offset, weight, bias, mask, **settings):
    offset = offset.roll(2 * weight.shape[2] * weight.shape[3], dims=1)
    return deform_conv2d(input, offset, weight, bias, mask=mask, **settings)


def swaps_dy_and_dx(input, offset, weight, bias, mask, **settings):
    swapped = offset.unflatten(1, (-1, 2)).flip(2).flatten(1, 2)
    return deform_conv2d(input, swapped, weight, bias, mask=mask, **settings)


def takes_the_left_hand_slope(input, offset, weight, bias, mask, **settings):
    right = deform_conv2d(input, offset, weight, bias, mask=mask, **settings)
    exact = offset.to(torch.promote_types(offset.dtype, torch.float32))
    left = deform_conv2d(input, exact - 2**-10, weight, bias, mask=mask, **settings)
    return left + (right - left).detach()


def rounds_positions_to_the_inputs_dtype(input, offset, weight, bias, mask, **settings):
    base = positions_without_offset(input, offset, weight, settings)
    rounded = (base + offset).to(input.dtype) - base
    return deform_conv2d(input, rounded, weight, bias, mask=mask, **settings)


def reads_nan_as_no_offset(input, offset, weight, bias, mask, **settings):
    offset = torch.where(offset.isnan(), 0, offset)
    return deform_conv2d(input, offset, weight, bias, mask=mask, **settings)


def is_off_in_the_fifth_digit(input, offset, weight, bias, mask, **settings):
    return deform_conv2d(input, offset, weight * (1 + 1e-5), bias, mask=mask, **settings)


@pytest.mark.parametrize(
    "wrong,category",
    [
        (clamps_positions, "offsets at the border"),
        (takes_the_next_offset_group, "offset groups"),
        (swaps_dy_and_dx, "offsets near"),
        (takes_the_left_hand_slope, "offsets at whole pixels"),
        (rounds_positions_to_the_inputs_dtype, "wide maps"),
        (reads_nan_as_no_offset, "offsets NaN, infinite"),
        (is_off_in_the_fifth_digit, "groups"),
    ],
)
def test_a_wrong_operator_is_caught_by_the_quick_run(wrong, category):
    report = run(0, of_category(category), operator=wrong)
    assert report.failures
