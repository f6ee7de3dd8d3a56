"""Is deform_conv2d right? By hand, against its definition, and against other libraries."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from geometry import AWKWARD, Geometry, Tensors, random_geometry, random_tensors, relative_error

from segdcn.ops import deform_conv2d, reference

# float64: sums of a few hundred products, each rounded at 1e-16.
EXACT = 1e-12


def test_a_constant_offset_moves_a_ramp(device):
    """On x = 9*row + col, moving every tap by (dy, dx) adds (9*dy + dx) * sum(weight)."""
    ramp = (9.0 * torch.arange(9)[:, None] + torch.arange(9)).double()[None, None].to(device)
    weight = torch.arange(1.0, 10.0, dtype=torch.float64, device=device).view(1, 1, 3, 3)
    offset = torch.zeros(1, 18, 7, 7, dtype=torch.float64, device=device)
    offset[:, 0::2], offset[:, 1::2] = 0.5, -0.25
    still = deform_conv2d(ramp, torch.zeros_like(offset), weight)
    moved = deform_conv2d(ramp, offset, weight)
    # Away from the left and lower border, where reads leave the ramp for the zeros around it.
    difference = (moved - still)[:, :, :-1, 1:]
    torch.testing.assert_close(difference, torch.full_like(difference, (9 * 0.5 - 0.25) * 45))


def test_the_offset_gradient_is_the_slope_of_the_map(device):
    """Per tap on x = 9*row + col, d out / d dy is 9 * weight and d out / d dx is weight."""
    ramp = (9.0 * torch.arange(6)[:, None] + torch.arange(6)).double()[None, None].to(device)
    weight = torch.tensor([[[[2.0]]]], dtype=torch.float64, device=device)
    offset = torch.full((1, 2, 6, 6), 0.3, dtype=torch.float64, device=device, requires_grad=True)
    deform_conv2d(ramp, offset, weight).sum().backward()
    inner = offset.grad[:, :, :5, :5]
    torch.testing.assert_close(inner[0, 0], torch.full_like(inner[0, 0], 18.0))
    torch.testing.assert_close(inner[0, 1], torch.full_like(inner[0, 1], 2.0))


@pytest.mark.parametrize("channels_last", [False, True])
def test_zero_offsets_are_a_plain_convolution(device, channels_last):
    tensors = random_tensors(Geometry(channels=24, offset_groups=2, masked=False), dtype=torch.float64)
    tensors = tensors.map(lambda t: t.to(device))
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=torch.channels_last)
    tensors.offset.zero_()
    geometry = Geometry(channels=24, offset_groups=2, masked=False)
    plain = F.conv2d(tensors.input, tensors.weight, tensors.bias, groups=2, **geometry.settings)
    assert relative_error(tensors.call(deform_conv2d, geometry), plain) < EXACT


@pytest.mark.parametrize("seed", range(40))
def test_it_equals_its_definition_and_torchvision(seed, device):
    """Random geometry, float64: result and every gradient, also layouts no one plans for."""
    geometry = random_geometry(seed)
    if seed % 4 < 2:  # enough pixels for a packed weight
        geometry = replace(geometry, batch=100 // (geometry.out_size[0] * geometry.out_size[1]) + 1)
    tensors = random_tensors(geometry, seed).map(lambda t: t.to(device))
    if seed % 2:
        tensors.input = tensors.input.contiguous(memory_format=torch.channels_last)
    if seed % 3 == 1:  # neither layout: every other element of something larger
        tensors = tensors.map(lambda t: torch.stack([t, t], dim=-1)[..., 0])
    output, grads = tensors.gradients(deform_conv2d, geometry)
    for other in (reference.deform_conv2d, torchvision.ops.deform_conv2d):
        expected, expected_grads = tensors.gradients(other, geometry)
        assert relative_error(output, expected) < 1e-10
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            assert relative_error(grad, expected_grad) < 1e-10


def test_offset_gradients_at_zero_offsets_are_torchvisions(device):
    """At whole pixels the slope is one-sided; training starts there, so the side matters."""
    tensors = random_tensors(AWKWARD, whole=True, reach=0.0).map(lambda t: t.to(device))
    assert not tensors.offset.any()
    _, grads = tensors.gradients(deform_conv2d, AWKWARD)
    _, expected = tensors.gradients(torchvision.ops.deform_conv2d, AWKWARD)
    for grad, other in zip(grads, expected, strict=True):
        assert relative_error(grad, other) < EXACT


def test_whole_pixel_offsets_also_outside_the_map_agree_with_torchvision(device):
    """Positions exactly at -1 and at the far border included."""
    tensors = random_tensors(AWKWARD, whole=True, reach=6.0).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv2d, AWKWARD)
    expected, expected_grads = tensors.gradients(torchvision.ops.deform_conv2d, AWKWARD)
    assert relative_error(output, expected) < EXACT
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < EXACT


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_onnxruntime(seed):
    """float32; onnxruntime takes the same border and offset order."""
    onnxruntime = pytest.importorskip("onnxruntime")
    geometry = random_geometry(seed)
    tensors = random_tensors(geometry, seed, dtype=torch.float32)
    session = onnxruntime.InferenceSession(_onnx_model(geometry, tensors), providers=["CPUExecutionProvider"])
    names = {"input": "X", "weight": "W", "offset": "offset", "bias": "B", "mask": "mask"}
    feeds = {names[k]: v.numpy() for k, v in vars(tensors).items() if v is not None}
    (expected,) = session.run(None, feeds)
    # Two float32 sums of the same few hundred products in different order.
    assert relative_error(tensors.call(deform_conv2d, geometry), torch.from_numpy(expected)) < 1e-5


def _onnx_model(geometry: Geometry, tensors: Tensors) -> bytes:
    from onnx import TensorProto, helper

    inputs = ["X", "W", "offset"]
    inputs += ["B" if tensors.bias is not None else ""] + (["mask"] if tensors.mask is not None else [])
    node = helper.make_node(
        "DeformConv",
        inputs,
        ["Y"],
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        pads=[*geometry.padding, *geometry.padding],
        dilations=geometry.dilation,
        group=geometry.groups,
        offset_group=geometry.offset_groups,
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs if name]
    result = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    model = helper.make_model(
        helper.make_graph([node], "deform_conv", values, [result]),
        opset_imports=[helper.make_opsetid("", 19)],
        ir_version=10,
    )
    return model.SerializeToString()


def golden_cases(folder: Path, op: str) -> list[tuple[dict, dict[str, torch.Tensor]]]:
    """Return (attributes, arrays) of the recorded cases of one operator."""
    cases = []
    for index in sorted(folder.glob("golden/*/index.json")):
        for case in json.loads(index.read_text()):
            if case["op"] == op:
                arrays = np.load(index.parent / f"{case['name']}.npz")
                cases.append((case, {name: torch.from_numpy(arrays[name]) for name in arrays.files}))
    return cases


def _golden_call(case: dict, arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    top, left, bottom, right = case["pads_tlbr"]
    assert (top, left) == (bottom, right)
    return deform_conv2d(
        arrays["x"],
        arrays["offset"],
        arrays["weight"],
        arrays.get("bias"),
        stride=case["stride"],
        padding=(top, left),
        dilation=case["dilation"],
        mask=arrays.get("mask"),
    )


def test_recorded_vectors_of_other_libraries(test_data):
    """ONNX's backend tests, onnxruntime's unit tests, and torchvision in float64 with gradients."""
    cases = golden_cases(test_data, "deform_conv2d")
    assert len(cases) >= 22
    num_gradients = 0
    for case, arrays in cases:
        tolerance = case.get("tol", EXACT)
        # The float64 results were computed from float32 inputs converted to float64.
        arrays = {name: array.to(arrays["y"].dtype) for name, array in arrays.items()}
        grads = {name: array for name, array in arrays.items() if name.startswith("grad_")}
        inputs = {name: array.requires_grad_() for name, array in arrays.items() if name not in {"y", *grads}}
        output = _golden_call(case, inputs)
        torch.testing.assert_close(output.detach(), arrays["y"], rtol=tolerance, atol=tolerance, msg=case["name"])
        if grads:
            output.backward(grads.pop("grad_y"))
            for name, expected in grads.items():
                assert relative_error(inputs[name.removeprefix("grad_")].grad, expected) < 1e-10, (case["name"], name)
                num_gradients += 1
    assert num_gradients >= 8 * 3


def test_recorded_vectors_of_mmcv_with_gradients(test_data):
    """The packed layer of mmcv, whose offsets come from a convolution of the same input."""
    cases = golden_cases(test_data, "deform_conv2d_pack")
    assert cases
    for case, arrays in cases:
        leaves = {n: arrays[n].clone().requires_grad_() for n in ("x", "weight", "offset_weight", "offset_bias")}
        offset = F.conv2d(leaves["x"], leaves["offset_weight"], leaves["offset_bias"])
        output = deform_conv2d(leaves["x"], offset, leaves["weight"])
        torch.testing.assert_close(output.detach(), arrays["y"], rtol=case["tol"], atol=case["tol"])
        output.sum().backward()
        for name, leaf in leaves.items():
            torch.testing.assert_close(leaf.grad, arrays[f"grad_{name}"], rtol=case["tol"], atol=case["tol"])
