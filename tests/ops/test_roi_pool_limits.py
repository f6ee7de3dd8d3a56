"""Half precision, empty and hostile input, reproducibility, refusals of the RoI poolings."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from geometry import relative_error
from regions import NAMES, draw

from segdcn.ops import deform_psroi_pool, deform_roi_pool, roi_reference

PLAIN = {"batch": 2, "height": 12, "width": 15, "count": 23, "ph": 3, "pw": 3, "moves": True, "scale": 0.5}
PLAIN |= {"channels": 70, "group": 3, "classes": 1, "depth": 19, "gamma": 0.1, "parts": None, "size": None}


# Inputs are rounded to the dtype before both sides see them. What is left is the rounding of results and
# gradients, and for float32 of positions: samples that change sides of a whole pixel change little, but for PS-RoI
# pooling's border, where they are counted or not (no such case is drawn here).
@pytest.mark.parametrize("dtype,limit", [(torch.float32, 5e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("count", [2, 23])  # read as they are, and rearranged
def test_every_dtype_agrees_with_float64(name, dtype, limit, last, count, device):
    case = draw(name, 1, **(PLAIN | {"count": count}), last=last)
    case = replace(case, input=case.input.to(dtype), rois=case.rois.float(), offset=case.offset.to(dtype))
    results = case.map(lambda t: t.to(device)).gradients()
    assert [r.dtype for r in results] == [dtype] * 3
    errors = map(relative_error, [r.cpu() for r in results], case.map(lambda t: t.double()).gradients(exact=True))
    assert max(errors) < limit


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_takes_float32_offsets_and_rois(name, device):
    case = draw(name, 1, **PLAIN).map(lambda t: t.float().to(device))
    case = replace(case, input=case.input.bfloat16())
    assert [r.dtype for r in case.gradients()] == [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("name", NAMES)
def test_no_regions_give_an_empty_result_and_zero_gradients(name, device):
    case = draw(name, 1, **(PLAIN | {"count": 0})).map(lambda t: t.to(device))
    output, grad_input, grad_offset = case.gradients()
    assert output.shape[0] == 0 and output.shape[2:] == (3, 3)
    assert grad_input.shape == case.input.shape and not grad_input.any()
    assert grad_offset.shape == case.offset.shape
    empty = replace(case, input=case.input[:0]).gradients()
    assert empty[1].shape == (0, *case.input.shape[1:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("samples", [1, 2])
def test_nan_and_infinite_positions_read_nothing(name, samples, device):
    """In one bin's offset and in regions; their neighbours stay what they were."""
    case = draw(name, 1, **PLAIN, samples=samples).map(lambda t: t.to(device))
    clean = case.gradients()
    for value in (float("nan"), float("inf"), -float("inf"), 1e30):
        hurt = case.map(torch.clone)
        hurt.offset[0, :, 0, 0] = value
        hurt.rois[1, 2] = value
        output, grad_input, grad_offset = hurt.gradients()
        assert not output[0, :, 0, 0].any() and not grad_offset[0, :, 0, 0].any()
        for tensor in (output, grad_input, grad_offset):
            assert torch.isfinite(tensor).all()
        assert torch.equal(output[2:], clean[0][2:]) and torch.equal(grad_offset[2:], clean[2][2:])


def test_nan_and_infinite_regions_are_over_soon(device):
    """With as many samples as pixels, a huge region must not take a loop of billions."""
    input = torch.ones(1, 2, 5, 6, device=device, requires_grad=True)
    corners = [[0, 0, float("inf"), 9], [float("nan")] * 4, [0, 0, 1e9, 1e9], [-1e9, -1e9, 1e9, 1e9]]
    corners.append([-1e38, 0, 1e38, 9])
    rois = torch.tensor([[0, *corner] for corner in corners], device=device)
    offset = torch.zeros(5, 2, 3, 3, device=device, requires_grad=True)
    output = deform_roi_pool(input, rois, offset, 3)
    output.sum().backward()
    for tensor in (output, input.grad, offset.grad):
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_box_of_no_known_size_has_no_gradient(name, exact, device):
    """Its reach is infinite or NaN, and 0 times that would spoil the weights that predict offsets."""
    inf, nan = float("inf"), float("nan")
    bad = [[0, 0, inf, 9], [nan, 0, 5, 5], [0, 0, 5, nan], [-3e38, 0, 3e38, 9], [nan] * 4]
    for corners in bad:
        case = draw(name, 1, **PLAIN, samples=2).map(lambda t: t.to(device))
        hurt = case.map(torch.clone)
        hurt.rois[1, 1:] = torch.tensor(corners)
        for tensor in hurt.gradients(exact):
            assert torch.isfinite(tensor).all()
        assert not hurt.gradients(exact)[2][1].any()


def test_a_nan_in_the_map_reaches_only_what_reads_it(device):
    input = torch.ones(1, 2, 9, 9, device=device)
    input[0, :, 8, 8] = float("nan")
    rois = torch.tensor([[0.0, 1, 1, 5, 5]], device=device)
    assert torch.equal(deform_roi_pool(input, rois, None, 2), torch.ones(1, 2, 2, 2, device=device))


@pytest.mark.parametrize("samples", [0, 2])
def test_regions_of_no_or_negative_size(samples, device):
    """As many samples as pixels are none; two by two samples all lie at the corner, or run backwards.

    On 6*row + col, at (2, 2), and around (2, 3).
    """
    input = torch.arange(30.0, device=device).view(1, 1, 5, 6)
    rois = torch.tensor([[0, 2.5, 2.5, 2.5, 2.5], [0, 4.5, 3.5, 2.5, 1.5]], device=device)
    got = deform_roi_pool(input, rois, None, 1, sampling_ratio=samples)[:, 0, 0, 0]
    assert got.tolist() == ([14, 15] if samples else [0, 0])


def test_a_position_sensitive_region_is_at_least_a_tenth_of_a_pixel(device):
    """x1 = x2 + 1: no width, and yet its samples lie on it."""
    input = torch.arange(30.0, device=device).view(1, 1, 5, 6)
    rois = torch.tensor([[0, 3.0, 2.0, 2.0, 1.0]], device=device)
    got = deform_psroi_pool(input, rois, output_dim=1, group_size=1, samples_per_part=1)
    torch.testing.assert_close(got.flatten(), torch.tensor([6 * 1.5 + 2.5], device=device))


@pytest.mark.parametrize("index", [-1.0, 2.0, float("nan")])
def test_a_batch_index_that_does_not_exist_is_refused(index):
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [index, 0, 0, 2, 2]])
    with pytest.raises(ValueError, match=r"rois\[1\] has batch index .*, but input has 2 images"):
        deform_roi_pool(torch.zeros(2, 1, 4, 4), rois, None, 2)
    with pytest.raises(ValueError, match=r"rois\[1\] has batch index"):
        deform_psroi_pool(torch.zeros(2, 4, 4, 4), rois, output_dim=1, group_size=2)


@pytest.mark.parametrize("index", [-1.0, 2.0, float("nan")])
def test_the_registered_operator_reads_nothing_there(index, device):
    """What a GPU does, where looking at the indices would mean waiting for it."""
    rois = torch.tensor([[0.0, 0, 0, 2, 2], [index, 0, 0, 2, 2]], device=device)
    input = torch.ones(2, 1, 4, 4, device=device, requires_grad=True)
    offset = torch.zeros(2, 2, 2, 2, device=device, requires_grad=True)
    output = torch.ops.segdcn.deform_roi_pool(input, rois, offset, [2, 2], 1.0, 0, 0.1, False)
    output.sum().backward()
    assert not output[1].any() and not offset.grad[1].any() and not input.grad[1].any()
    assert output[0].all()
    exact = roi_reference.deform_roi_pool(input.double(), rois.double(), None, 2)
    torch.testing.assert_close(output.double(), exact)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["slice", "expanded", "transposed"])
def test_every_memory_layout_gives_the_same(name, layout, device):
    case = draw(name, 1, **PLAIN).map(lambda t: t.to(device))
    expected = case.call()
    input = case.input
    if layout == "slice":
        wide = torch.full((*input.shape[:3], 40), float("nan"), dtype=input.dtype, device=device)
        wide[..., 3:18] = input
        input = wide[..., 3:18]
    elif layout == "expanded":
        input = input[:1].expand(2, -1, -1, -1)
        expected = replace(case, input=input.contiguous()).call()
    else:
        input = input.transpose(2, 3).contiguous().transpose(2, 3)
    rois = case.rois.T.contiguous().T
    offset = case.offset.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    torch.testing.assert_close(replace(case, input=input, rois=rois, offset=offset).call(), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [False, True])
def test_the_same_bits_in_every_run(name, last, device):
    case = draw(name, 1, **(PLAIN | {"count": 200}), last=last).map(lambda t: t.float().to(device))
    torch.use_deterministic_algorithms(True)
    try:
        first = case.gradients()
        for _ in range(3):
            assert all(map(torch.equal, case.gradients(), first))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(6))
def test_the_deterministic_gradient_is_the_same_gradient(name, seed, device):
    case = draw(name, seed).map(lambda t: t.to(device))
    expected = case.gradients()
    torch.use_deterministic_algorithms(True)
    try:
        got = case.gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("choice", ["baseline", "avx2"])
def test_every_instruction_set_computes_the_same(choice):
    """The widest is what the other tests run with."""
    if torch.ops.segdcn.cpu_capability() == "baseline":
        return
    folder = Path(__file__).parent
    command = [sys.executable, folder / "fuzz_regions.py", "--count", "60"]
    path = f"{folder.parents[1]}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "SEGDCN_CPU": choice, "PYTHONPATH": path}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


X, ROIS, OFFSET = torch.zeros(2, 8, 5, 6), torch.zeros(3, 5), torch.zeros(3, 2, 2, 2)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"input": X[0]}, r"input has shape \(8, 5, 6\), but must have 4 dimensions"),
        ({"input": X[:, :, :0]}, "only the batch may be empty"),
        ({"input": X[:, :0]}, "only the batch may be empty"),
        ({"input": X.int()}, "input has dtype torch.int32"),
        ({"input": [1]}, "input is a list, but must be a tensor"),
        ({"rois": ROIS[:, :4]}, r"rois has shape \(3, 4\), but must be \(R, 5\)"),
        ({"rois": ROIS.long()}, "rois has dtype torch.int64"),
        ({"offset": OFFSET[:2]}, r"offset has shape \(2, 2, 2, 2\), but must be \(3, 2, 2, 2\)"),
        ({"offset": OFFSET[:, :, :1]}, "the number of rois, and output_size"),
        ({"offset": OFFSET[:, :1]}, "4 dimensions and 2 channels"),
        ({"offset": OFFSET.double()}, "offset has dtype torch.float64, but must be float32"),
        ({"output_size": (2, 0)}, r"output_size is \(2, 0\)"),
        ({"output_size": 2.0}, "output_size is 2.0"),
        ({"sampling_ratio": -1}, "sampling_ratio is -1, but must be an int from 0"),
        ({"spatial_scale": 0.0}, "spatial_scale is 0.0, but must be a positive"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"rois": ROIS.to("meta")}, "rois is on meta, but input is on cpu"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    arguments = {"input": X, "rois": ROIS, "offset": OFFSET, "output_size": 2} | change
    with pytest.raises(ValueError, match=message):
        deform_roi_pool(**arguments)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"output_dim": 3}, "input has 8 channels, but output_dim 3 and group_size 2 need 12"),
        ({"group_size": 0}, "group_size is 0"),
        ({"samples_per_part": 0}, "samples_per_part is 0, but must be an int from 1"),
        ({"part_size": 3}, "the number of rois, and part_size"),
        ({"offset": torch.zeros(3, 6, 2, 2)}, "makes 3 classes, but output_dim 2 cannot be divided"),
        ({"offset": torch.zeros(3, 3, 2, 2)}, "an even number of channels"),
        ({"trans_std": float("inf")}, "trans_std is inf"),
    ],
)
def test_what_does_not_fit_position_sensitive_pooling_is_refused(change, message):
    arguments = {"input": X, "rois": ROIS, "offset": OFFSET, "output_dim": 2, "group_size": 2} | change
    with pytest.raises(ValueError, match=message):
        deform_psroi_pool(**arguments)
