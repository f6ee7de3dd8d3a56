"""Are the RoI poolings right? By hand, against their definitions, and against other libraries."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from geometry import relative_error
from regions import NAMES, draw, draw_rois

from segdcn.ops import deform_psroi_pool, deform_roi_pool

# float64: positions and sums in another order.
EXACT = 1e-11


def ramp(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return 10*row + col."""
    return (10.0 * torch.arange(height)[:, None] + torch.arange(width)).double()[None, None].to(device)


def test_a_bin_is_the_mean_of_its_samples(device):
    """On 10*row + col, the mean over a bin is the value at its centre: (y - 0.5, x - 0.5)."""
    rois = torch.tensor([[0, 2.0, 1.0, 6.0, 5.0]], dtype=torch.float64, device=device)
    got = deform_roi_pool(ramp(8, 9, device), rois, None, 2, sampling_ratio=2)
    # Rows 1 to 5 have bins centred at 2 and 4, columns 2 to 6 at 3 and 5; pixels are points.
    expected = torch.tensor([[15 + 2.5, 15 + 4.5], [35 + 2.5, 35 + 4.5]], dtype=torch.float64, device=device)
    torch.testing.assert_close(got[0, 0], expected)


def test_an_offset_moves_a_bin_by_a_part_of_the_regions_size(device):
    """0.1 * width 4 * offset 2 = 0.8 to the right, 0.1 * height 3 * offset -1 = 0.3 up."""
    rois = torch.tensor([[0, 2.0, 2.0, 6.0, 5.0]], dtype=torch.float64, device=device)
    offset = torch.zeros(1, 2, 1, 2, dtype=torch.float64, device=device)
    offset[0, 0, 0, 1], offset[0, 1, 0, 1] = 2, -1
    offset.requires_grad_()
    still = deform_roi_pool(ramp(8, 9, device), rois, None, (1, 2), sampling_ratio=2)
    moved = deform_roi_pool(ramp(8, 9, device), rois, offset, (1, 2), sampling_ratio=2)
    difference = torch.tensor([0, 0.8 - 10 * 0.3], dtype=torch.float64, device=device)
    torch.testing.assert_close((moved - still)[0, 0, 0], difference)
    # The slope of the ramp: 1 to the right, 10 downwards, times 0.1 * size.
    moved.sum().backward()
    expected = torch.tensor([0.4, 3.0], dtype=torch.float64, device=device)
    torch.testing.assert_close(offset.grad[0, :, 0, 0], expected)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("samples", [0, 2])
def test_without_offsets_it_is_roi_align(seed, samples, device):
    case = draw("deform_roi_pool", seed, samples=samples, moves=False).map(lambda t: t.to(device))
    size, scale = case.settings["output_size"], case.settings["spatial_scale"]
    input = case.input.clone().requires_grad_()
    expected = torchvision.ops.roi_align(input, case.rois, size, scale, samples, aligned=True)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(expected)
    got, got_grad = case.gradients()
    assert relative_error(got, expected.detach()) < EXACT or not expected.any()
    (exact,) = torch.autograd.grad(expected, input, grad)
    assert relative_error(got_grad, exact) < EXACT or not exact.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(60))
def test_it_equals_its_definition_in_float64(name, seed, device):
    case = draw(name, seed)
    for got, expected in zip(case.map(lambda t: t.to(device)).gradients(), case.gradients(exact=True), strict=True):
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-9, atol=1e-11)


def golden(test_data: Path, prefix: str) -> list[dict]:
    cases = []
    for folder in ("published", "oracle"):
        index = json.loads((test_data / "golden" / folder / "index.json").read_text())
        for entry in index if isinstance(index, list) else index["cases"]:
            if entry["name"].startswith(prefix):
                with np.load(test_data / "golden" / folder / f"{entry['name']}.npz") as arrays:
                    cases.append(entry | {key: torch.from_numpy(arrays[key]) for key in arrays.files})
    return cases


def mmcv_deform_roi_pool(input, rois, offset, size, scale, ratio, gamma):
    """What mmcv's CUDA kernel computes, one output number after another, in Python's numbers."""
    _, channels, height, width = input.shape

    def read(plane, y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = max(y, 0.0), max(x, 0.0)
        top, left = int(y), int(x)
        if top >= height - 1:
            top = bottom = height - 1
            y = float(top)
        else:
            bottom = top + 1
        if left >= width - 1:
            left = right = width - 1
            x = float(left)
        else:
            right = left + 1
        down, along = y - top, x - left
        upper = (1 - along) * plane[top][left] + along * plane[top][right]
        return (1 - down) * upper + down * ((1 - along) * plane[bottom][left] + along * plane[bottom][right])

    result = torch.zeros(len(rois), channels, *size, dtype=torch.float64)
    planes, fields = input.tolist(), offset.tolist()
    for n, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (value * scale - 0.5 for value in corners)
        bin_h, bin_w = (y2 - y1) / size[0], (x2 - x1) / size[1]
        grid_h, grid_w = (ratio, ratio) if ratio > 0 else (math.ceil(bin_h), math.ceil(bin_w))
        for c, i, j in itertools.product(range(channels), range(size[0]), range(size[1])):
            left = x1 + gamma * (x2 - x1) * fields[n][0][i][j]
            top = y1 + gamma * (y2 - y1) * fields[n][1][i][j]
            total = 0.0
            for iy, ix in itertools.product(range(grid_h), range(grid_w)):
                y = top + i * bin_h + (iy + 0.5) * bin_h / grid_h
                x = left + j * bin_w + (ix + 0.5) * bin_w / grid_w
                total += read(planes[int(image)][c], y, x)
            result[n, c, i, j] = total / max(grid_h * grid_w, 1)
    return result


@pytest.mark.parametrize("ratio", [0, 2, 3])
def test_offsets_mean_what_they_mean_in_mmcv(ratio, device):
    """The published vectors have offsets of zero only."""
    case = draw("deform_roi_pool", 5, batch=2, height=12, width=15, scale=0.5, count=4, ph=2, pw=3, channels=2)
    offset = torch.randn(4, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    settings = ((2, 3), 0.5, ratio, 0.3)
    expected = mmcv_deform_roi_pool(case.input, case.rois, offset, *settings)
    got = deform_roi_pool(case.input.to(device), case.rois.to(device), offset.to(device), *settings)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-11, atol=1e-12)


def test_the_vectors_of_mmcv(test_data, device):
    cases = golden(test_data, "mmcv_deform_roi_pool")
    assert len(cases) == 2
    for case in cases:
        input = case["x"].to(device).requires_grad_()
        offset = torch.zeros(len(case["rois"]), 2, *case["pooled"], device=device)
        settings = (case["pooled"], case["spatial_scale"], case["sampling_ratio"])
        got = deform_roi_pool(input, case["rois"].to(device), offset, *settings)
        got.sum().backward()
        torch.testing.assert_close(got.cpu(), case["y"], rtol=case["tol"], atol=case["tol"])
        torch.testing.assert_close(input.grad.cpu(), case["grad_x"], rtol=case["tol"], atol=case["tol"])


def test_the_vectors_of_openvino(test_data, device):
    cases = golden(test_data, "openvino_dpsroi") + golden(test_data, "oracle_dpsroi")
    assert len(cases) == 6 + 8
    for case in cases:
        part, offset = case["part_size"], case.get("offsets")
        if offset is not None and offset.shape[-1] != part:
            # Some were written with more offsets than parts, all of them equal.
            assert (offset == offset.flatten()[0]).all()
            offset = offset[:, :, :part, :part]
        got = deform_psroi_pool(
            case["x"].to(device),
            case["rois"].to(device),
            None if offset is None else offset.to(device),
            output_dim=case["output_dim"],
            group_size=case["group_size"],
            part_size=part,
            samples_per_part=case["spatial_bins_x"],
            trans_std=case["trans_std"],
            spatial_scale=case["spatial_scale"],
        )
        tolerance = case.get("tol", 1e-4)
        torch.testing.assert_close(got.cpu(), case["y"], rtol=tolerance, atol=tolerance, msg=case["name"])


def openvinos(case) -> torch.Tensor:
    """Compute a PS-RoI pooling in OpenVINO, float32."""
    openvino = pytest.importorskip("openvino")
    tensors = [case.input, case.rois] + ([] if case.offset is None else [case.offset])
    arrays = [t.float().contiguous().numpy() for t in tensors]
    parameters = [openvino.opset8.parameter(array.shape, np.float32) for array in arrays]
    s = case.settings
    node = openvino.opset8.deformable_psroi_pooling(
        feature_maps=parameters[0],
        coords=parameters[1],
        offsets=parameters[2] if len(parameters) == 3 else None,
        output_dim=s["output_dim"],
        spatial_scale=s["spatial_scale"],
        group_size=s["group_size"],
        mode="bilinear_deformable",
        spatial_bins_x=s["samples_per_part"],
        spatial_bins_y=s["samples_per_part"],
        trans_std=s["trans_std"],
        part_size=s["group_size"],
    )
    compiled = openvino.Core().compile_model(openvino.Model([node], parameters), "CPU")
    return torch.from_numpy(compiled(arrays)[0])


@pytest.mark.parametrize("seed", range(25))
def test_it_equals_openvinos_runtime(seed, device):
    """Random regions with halves, which C rounds away from zero; classes; far offsets."""
    case = draw("deform_psroi_pool", seed, parts=None, size=None, height=12, width=15)
    # Halves of a unit in float32 are exact.
    case = case.map(lambda t: t.float())
    case.rois[:, 1:] = (case.rois[:, 1:] * 2).round() / 2
    got = case.map(lambda t: t.to(device)).call().cpu()
    expected = openvinos(case)
    # A sample whose position rounds to another side of the border is counted by one of the two.
    same = (got - expected).abs() <= 1e-4 * (1 + expected.abs())
    assert same.float().mean() > 0.995
    assert same.all() or case.offset is not None


def test_regions_of_every_image_read_that_image(device):
    input = torch.arange(4.0, device=device).view(4, 1, 1, 1).expand(4, 3, 6, 6)
    rois = torch.tensor([[3.0, 0, 0, 4, 4], [0, 0, 0, 4, 4], [2, 1, 1, 3, 3]], device=device)
    got = deform_roi_pool(input, rois, None, 2)
    assert got.amax((1, 2, 3)).tolist() == got.amin((1, 2, 3)).tolist() == [3, 0, 2]


def test_regions_cover_what_they_should():
    """Of what is drawn above, some lie outside, some have no size, and some are larger than the map."""
    rois = draw_rois(torch.Generator().manual_seed(0), 40, 2, 10.0, 10.0)
    assert (rois[:, 1] > 20).any() and (rois[:, 3] == rois[:, 1]).any() and ((rois[:, 3] - rois[:, 1]) > 7).any()
