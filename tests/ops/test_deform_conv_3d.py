"""deform_conv3d: is it right, are its gradients, does torch know it, and does it refuse nonsense?

The code is deform_conv2d's, so what does not depend on the dimensions is tested there.
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from geometry import AWKWARD3D, Geometry, random_geometry3d, random_tensors, relative_error
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from segdcn.ops import deform_conv2d, deform_conv3d, reference, second_derivative
from segdcn.timing import peak_memory

# float64: sums of a few hundred products, each rounded at 1e-16.
EXACT = 1e-12
LAST = torch.channels_last_3d
TINY = Geometry(1, 4, 3, 4, 2, (2, 2, 1), (1, 1, 1), (1, 1, 0), (1, 1, 1), 2, 2, depth=3)


def function_of(tensors, geometry, operator=deform_conv3d):
    """The operator as a function of the tensors that are there."""
    names = [name for name, value in vars(tensors).items() if value is not None]
    return lambda *present: replace(tensors, **dict(zip(names, present, strict=True))).call(operator, geometry)


# ---------------------------------------------------------------- values


def test_a_constant_offset_moves_a_ramp(device):
    """On x = 81*plane + 9*row + col, moving a tap by (dz, dy, dx) adds (81*dz + 9*dy + dx) * weight."""
    ramp = torch.arange(5.0 * 81, dtype=torch.float64, device=device).view(1, 1, 5, 9, 9)
    weight = torch.arange(1.0, 9.0, dtype=torch.float64, device=device).view(1, 1, 2, 2, 2)
    offset = torch.zeros(1, 24, 4, 8, 8, dtype=torch.float64, device=device)
    still = deform_conv3d(ramp, offset, weight)
    offset[:, 0::3], offset[:, 1::3], offset[:, 2::3] = 0.75, 0.5, -0.25
    moved = deform_conv3d(ramp, offset, weight)
    # Away from the borders where reads leave the ramp for the zeros around it.
    difference = (moved - still)[:, :, :-1, :-1, 1:]
    torch.testing.assert_close(difference, torch.full_like(difference, (81 * 0.75 + 9 * 0.5 - 0.25) * 36))


def test_the_offset_gradient_is_the_slope_of_the_map(device):
    ramp = torch.arange(4.0 * 81, dtype=torch.float64, device=device).view(1, 1, 4, 9, 9)
    weight = torch.tensor(2.0, dtype=torch.float64, device=device).view(1, 1, 1, 1, 1)
    offset = torch.full((1, 3, 4, 9, 9), 0.3, dtype=torch.float64, device=device, requires_grad=True)
    deform_conv3d(ramp, offset, weight).sum().backward()
    inner = offset.grad[0, :, :3, :8, :8]
    for slope, expected in zip(inner, (162.0, 18.0, 2.0), strict=True):
        torch.testing.assert_close(slope, torch.full_like(slope, expected))


@pytest.mark.parametrize("channels_last", [False, True])
def test_zero_offsets_are_a_plain_convolution(device, channels_last):
    geometry = replace(AWKWARD3D, channels=24, offset_groups=2, masked=False)
    tensors = random_tensors(geometry).map(lambda t: t.to(device))
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=LAST)
    tensors.offset.zero_()
    plain = F.conv3d(tensors.input, tensors.weight, tensors.bias, groups=2, **geometry.settings)
    assert relative_error(tensors.call(deform_conv3d, geometry), plain) < EXACT


@pytest.mark.parametrize("masked", [False, True])
def test_a_kernel_of_depth_one_is_the_operator_of_two_dimensions_in_every_plane(device, masked):
    """Values and gradients; with dz = 0 at the planes themselves."""
    flat = Geometry(masked=masked)
    deep = replace(
        flat,
        depth=4,
        kernel=(1, *flat.kernel),
        stride=(1, *flat.stride),
        padding=(0, *flat.padding),
        dilation=(1, 2, 1),
    )
    tensors = random_tensors(deep).map(lambda t: t.to(device))
    tensors.offset[:, 0::3] = 0
    output, grads = tensors.gradients(deform_conv3d, deep)
    yx = tensors.offset.unflatten(1, (-1, 3))[:, :, 1:].flatten(1, 2)

    def planes(t):
        return t.movedim(2, 1).flatten(0, 1)  # (B, ., D, H, W) -> (B*D, ., H, W)

    cut = replace(
        tensors,
        input=planes(tensors.input),
        offset=planes(yx),
        weight=tensors.weight[:, :, 0],
        mask=planes(tensors.mask) if masked else None,
    )
    leaves = cut.map(lambda t: t.detach().requires_grad_())
    expected = leaves.call(deform_conv2d, flat)
    generator = torch.Generator().manual_seed(7)
    weighting = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    expected_grads = torch.autograd.grad(expected, leaves.present(), planes(weighting))
    assert relative_error(planes(output), expected.detach()) < EXACT
    assert relative_error(planes(grads[0]), expected_grads[0]) < EXACT
    assert relative_error(planes(grads[1].unflatten(1, (-1, 3))[:, :, 1:].flatten(1, 2)), expected_grads[1]) < EXACT
    assert relative_error(grads[2][:, :, 0], expected_grads[2]) < EXACT
    if masked:
        assert relative_error(planes(grads[4]), expected_grads[4]) < EXACT


@pytest.mark.parametrize("seed", range(40))
def test_it_equals_its_definition(seed, device):
    """Random geometry, float64: result and every gradient, also layouts no one plans for."""
    geometry = random_geometry3d(seed)
    tensors = random_tensors(geometry, seed).map(lambda t: t.to(device))
    if seed % 2:
        tensors.input = tensors.input.contiguous(memory_format=LAST)
    if seed % 3 == 1:  # neither layout: every other element of something larger
        tensors = tensors.map(lambda t: torch.stack([t, t], dim=-1)[..., 0])
    output, grads = tensors.gradients(deform_conv3d, geometry)
    expected, expected_grads = tensors.gradients(reference.deform_conv3d, geometry)
    assert relative_error(output, expected) < 1e-10
    for got, other in zip(grads, expected_grads, strict=True):
        assert relative_error(got, other) < 1e-10


@pytest.mark.parametrize("reach", [0.0, 6.0])
def test_at_whole_pixels_the_slope_is_the_definitions(reach, device):
    """One-sided, also at -1 and at the far border; training starts at whole pixels."""
    tensors = random_tensors(AWKWARD3D, whole=True, reach=reach).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv3d, AWKWARD3D)
    expected, expected_grads = tensors.gradients(reference.deform_conv3d, AWKWARD3D)
    assert relative_error(output, expected) < EXACT
    for got, other in zip(grads, expected_grads, strict=True):
        assert relative_error(got, other) < EXACT


# A few roundings of each dtype; float16 and bfloat16 round columns and results.
@pytest.mark.parametrize(
    "dtype,limit", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_dtype_agrees_with_float64(dtype, limit, channels_last, device):
    tensors = random_tensors(AWKWARD3D, dtype=dtype).map(lambda t: t.to(device))
    if dtype != torch.float64:  # positions and factors keep their precision
        tensors.offset, tensors.mask = tensors.offset.float(), tensors.mask.float()
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=LAST)
    expected, expected_grads = tensors.map(lambda t: t.double()).gradients(reference.deform_conv3d, AWKWARD3D)
    output, grads = tensors.gradients(deform_conv3d, AWKWARD3D)
    assert output.dtype == dtype and relative_error(output, expected) < limit
    for got, other in zip(grads, expected_grads, strict=True):
        assert relative_error(got, other) < limit


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_reads_far_outside_or_at_no_number_give_zero(value, dimension, device):
    geometry = replace(AWKWARD3D, biased=False)
    tensors = random_tensors(geometry).map(lambda t: t.to(device))
    tensors.offset[:, dimension::3] = value
    output, grads = tensors.gradients(deform_conv3d, geometry)
    for tensor in (output, *grads):
        assert not tensor.any()  # NaN counts as true


def test_one_nan_offset_spoils_only_its_own_reads(device):
    tensors = random_tensors(AWKWARD3D, reach=0.5).map(lambda t: t.to(device))
    before = tensors.call(deform_conv3d, AWKWARD3D)
    tensors.offset[0, 0, 1, 1, 2] = float("nan")
    after = tensors.call(deform_conv3d, AWKWARD3D)
    assert torch.isfinite(after).all()
    changed = (before != after).flatten(0, 1).any(0).nonzero().tolist()
    assert changed == [[1, 1, 2]]


def test_an_empty_batch_gives_an_empty_result_and_gradients(device):
    tensors = random_tensors(replace(AWKWARD3D, batch=0)).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv3d, AWKWARD3D)
    assert output.shape == (0, AWKWARD3D.out_channels, *AWKWARD3D.out_size)
    assert [g.shape for g in grads] == [t.shape for t in tensors.present()]
    assert not grads[2].any() and not grads[3].any()


# One more than the images that are copied at a time: 16 MiB of them (emulated kernels: 64 KiB).
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_chunks_and_image_groups_change_nothing(dtype, channels_last, device):
    geometry = Geometry(9, 64, 16, 32, 3, (1, 1, 2), (1, 2, 2), (0, 0, 0), (1, 1, 1), 1, 1, depth=16)
    tensors = random_tensors(geometry, dtype=dtype).map(lambda t: t.to(device))
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=LAST)
    output, grads = tensors.gradients(deform_conv3d, geometry)
    exact = tensors.map(lambda t: t[-1:].double() if t.shape[0] == geometry.batch else t.double())
    expected = exact.call(reference.deform_conv3d, geometry)
    limit = 1e-5 if dtype == torch.float32 else 1.6e-2
    assert relative_error(output[-1:], expected) < limit
    again = tensors.map(lambda t: t[-2:] if t.shape[0] == geometry.batch else t)
    leaves = again.map(lambda t: t.detach().requires_grad_())
    weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    alone = torch.autograd.grad(leaves.call(deform_conv3d, geometry), leaves.present(), weighting[-2:].to(output))
    for index in (0, 1, 4):  # of input, offset and mask, which are each image's own
        assert relative_error(grads[index][-2:], alone[index]) < 1e-5


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_the_batch(dtype):
    """At most 16 MiB each of columns, of copied images and of their float32 sums, and the product's own."""

    def extra(batch):
        geometry = Geometry(batch, 64, 28, 28, 8, (1, 2, 2), (1, 1, 1), (0, 1, 1), (1, 1, 1), 1, 1, depth=8)
        leaves = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.requires_grad_())
        leaves.input, leaves.weight, leaves.bias = (
            t.detach().to(dtype).requires_grad_() for t in (leaves.input, leaves.weight, leaves.bias)
        )

        grad = torch.ones_like(leaves.call(deform_conv3d, geometry))

        def step():
            output = leaves.call(deform_conv3d, geometry)
            return output.detach(), *torch.autograd.grad(output, leaves.present(), grad)

        step()
        return peak_memory(step, torch.device("cpu"))

    # The columns of these 48 volumes would take 300 MiB. What the allocator keeps varies by tens of MiB.
    assert extra(48) < 90 * 2**20


def test_results_repeat_bit_for_bit(device):
    geometry = replace(AWKWARD3D, channels=96)
    tensors = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.to(device))
    first, first_grads = tensors.gradients(deform_conv3d, geometry)
    for _ in range(3):
        output, grads = tensors.gradients(deform_conv3d, geometry)
        assert torch.equal(output, first)
        if device.type == "cpu":
            assert all(torch.equal(a, b) for a, b in zip(grads, first_grads, strict=True))


COMPARE = """
import torch
from geometry import AWKWARD3D, random_tensors, relative_error
from segdcn.ops import deform_conv3d, reference
from dataclasses import replace
for channels, dtype, limit in ((12, torch.float64, 1e-12), (204, torch.float32, 1e-5), (204, torch.bfloat16, 2e-2)):
    geometry = replace(AWKWARD3D, channels=channels)
    tensors = random_tensors(geometry, dtype=dtype)
    expected, grads = tensors.map(lambda t: t.double()).gradients(reference.deform_conv3d, geometry)
    got, others = tensors.gradients(deform_conv3d, geometry)
    errors = [relative_error(a, b) for a, b in zip([got, *others], [expected, *grads])]
    assert max(errors) < limit, (dtype, errors)
"""


@pytest.mark.parametrize("instruction_set", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("path", ["direct", "columns"])
def test_every_instruction_set_agrees_on_both_paths(instruction_set, path):
    environment = {**os.environ, "SEGDCN_CPU": instruction_set, "SEGDCN_CPU_PATH": path}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    result = subprocess.run([sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True)
    if "this processor and build offer" in result.stderr:
        pytest.skip(f"needs an NVIDIA GPU or a processor with {instruction_set}")
    assert result.returncode == 0, result.stderr


def _arguments(**changes) -> dict:
    tensors = random_tensors(Geometry(1, 4, 5, 5, 2, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1, 1, depth=4))
    return {**vars(tensors), "padding": 1, **changes}


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"input": torch.zeros(1, 4, 5, 5)}, "input has shape .* must have 5 dimensions"),
        ({"offset": torch.zeros(1, 54, 4, 5, 5)}, r"a 3x3x3 kernel needs a multiple of 81: one \(dz, dy, dx\) triple"),
        ({"offset": torch.zeros(1, 81, 4, 5, 4), "mask": None}, r"needs \(1, 81, 4, 5, 5\)"),
        ({"mask": torch.zeros(1, 9, 4, 5, 5)}, "of a 3x3x3 kernel need 27"),
        ({"mask": torch.zeros(1, 27, 3, 5, 5)}, "batch, depth, height and width must agree"),
        ({"stride": (1, 1)}, r"stride is \(1, 1\), but must be an int or \(depth, height, width\)"),
        ({"padding": 0, "dilation": 3}, "the kernel spans 7 pixels in depth"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        deform_conv3d(**_arguments(**changes))


def test_the_registered_operator_is_safe_without_the_python_checks():
    a = _arguments()
    settings = [[1, 1, 1], [1, 1, 1], [1, 1, 1], 1, 1, False, False]
    operator = torch.ops.segdcn.deform_conv3d
    assert operator(a["input"], a["weight"], a["offset"], a["mask"], a["bias"], *settings).shape == (1, 2, 4, 5, 5)
    for index, wrong in ((0, a["input"][:, :, 0]), (2, a["offset"][:, :54]), (3, a["mask"][:, :, :3])):
        arguments = [a["input"], a["weight"], a["offset"], a["mask"], a["bias"]]
        arguments[index] = wrong
        with pytest.raises(RuntimeError, match="arguments do not fit"):
            operator(*arguments, *settings)


# ---------------------------------------------------------------- torch


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(device, masked):
    geometry = replace(TINY, masked=masked)
    tensors = random_tensors(geometry, reach=1.5).map(lambda t: t.to(device).requires_grad_())
    assert gradcheck(function_of(tensors, geometry), tensors.present(), fast_mode=False)


@pytest.mark.parametrize("masked", [False, True])
def test_gradgradcheck(device, masked):
    geometry = replace(TINY, masked=masked)
    tensors = random_tensors(geometry, reach=1.5).map(lambda t: t.to(device).requires_grad_())
    assert gradgradcheck(function_of(tensors, geometry), tensors.present(), fast_mode=True)


def _gradient_penalty(tensors, geometry, operator):
    leaves = tensors.map(lambda t: t.detach().clone().requires_grad_())
    output = leaves.call(operator, geometry)
    grads = torch.autograd.grad(output.square().sum(), leaves.present(), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in grads), leaves.present())


@pytest.mark.parametrize("chunk", [1, 1 << 18])
def test_a_gradient_penalty_is_the_definitions_however_it_is_cut(chunk, device, monkeypatch):
    """Planes of output pixels are taken a few at a time."""
    monkeypatch.setattr(second_derivative, "CHUNK_ELEMENTS", chunk)
    tensors = random_tensors(AWKWARD3D).map(lambda t: t.to(device))
    expected = _gradient_penalty(tensors, AWKWARD3D, reference.deform_conv3d)
    for got, other in zip(_gradient_penalty(tensors, AWKWARD3D, deform_conv3d), expected, strict=True):
        assert relative_error(got, other) < EXACT


# Not ours: torch's own check of AOT dispatch looks at .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(device, channels_last, dtype):
    """Schema, fake kernel (strides included), autograd registration, AOT dispatch."""
    tensors = random_tensors(AWKWARD3D, dtype=dtype).map(lambda t: t.to(device))
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    tensors.offset, tensors.mask = tensors.offset.to(exact), tensors.mask.to(exact)
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=LAST)
    leaves = tensors.map(lambda t: t.requires_grad_())
    arguments = (leaves.input, leaves.weight, leaves.offset, leaves.mask)
    settings = [list(v) for v in (AWKWARD3D.stride, AWKWARD3D.padding, AWKWARD3D.dilation)]
    settings += [AWKWARD3D.groups, AWKWARD3D.offset_groups, channels_last, False]
    # Two ways to the same bfloat16 gradients may round differently.
    tolerance = {} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    torch.library.opcheck(torch.ops.segdcn.deform_conv3d, (*arguments, leaves.bias, *settings), **tolerance)
    with torch.no_grad():
        weighting = torch.randn_like(torch.ops.segdcn.deform_conv3d(*arguments, leaves.bias, *settings))
    detached = [t.detach() for t in (weighting, *arguments)]
    for needs in ([True, True, True, False], [False, True, False, True]):
        torch.library.opcheck(torch.ops.segdcn.deform_conv3d_backward, (*detached, *settings, *needs), **tolerance)


def test_the_memory_format_of_the_input_is_the_results(device):
    tensors = random_tensors(AWKWARD3D).map(lambda t: t.to(device).requires_grad_())
    assert tensors.call(deform_conv3d, AWKWARD3D).is_contiguous()
    last = replace(tensors, input=tensors.input.detach().contiguous(memory_format=LAST).requires_grad_())
    output = last.call(deform_conv3d, AWKWARD3D)
    assert output.is_contiguous(memory_format=LAST) and not output.is_contiguous()
    output.sum().backward()
    assert last.input.grad.is_contiguous(memory_format=LAST)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_input_and_weight_but_not_the_positions(device, dtype):
    """An offset of 20.03 pixels is 20.0 in bfloat16: autocast must not round it."""
    geometry = Geometry(1, 8, 2, 3, 8, (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1, 1, depth=64)
    tensors = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.to(device))
    tensors.offset.zero_()
    tensors.offset[:, 0] = -20.03
    with torch.autocast(device.type, dtype=dtype):
        output = tensors.call(deform_conv3d, geometry)
    assert output.dtype == dtype
    rounded = replace(tensors, input=tensors.input.to(dtype).float(), weight=tensors.weight.to(dtype).float())
    # What is left is the rounding of columns and results.
    limit = 8e-3 if dtype == torch.bfloat16 else 1e-3
    assert relative_error(output, rounded.call(deform_conv3d, geometry)) < limit


# Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiles_without_a_graph_break(device):
    tensors = random_tensors(AWKWARD3D, dtype=torch.float32).map(lambda t: t.to(device))
    compiled = torch.compile(deform_conv3d, fullgraph=True, backend="aot_eager")
    output, grads = tensors.gradients(compiled, AWKWARD3D)
    expected, expected_grads = tensors.gradients(deform_conv3d, AWKWARD3D)
    assert torch.equal(output, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))


def test_vmap_and_grad_of_every_sample(device):
    many = [random_tensors(TINY, seed).map(lambda t: t.to(device)) for seed in range(3)]
    stacked = [torch.stack(ts) for ts in zip(*[t.present() for t in many], strict=True)]
    function = function_of(many[0], TINY)
    got = vmap(function)(*stacked)
    grads = vmap(grad(lambda *args: function(*args).square().sum(), (0, 1, 2, 4)))(*stacked)
    for i, tensors in enumerate(many):
        assert relative_error(got[i], tensors.call(deform_conv3d, TINY)) < EXACT
        leaves = tensors.map(lambda t: t.requires_grad_())
        loss = leaves.call(reference.deform_conv3d, TINY).square().sum()
        expected = torch.autograd.grad(loss, [leaves.input, leaves.offset, leaves.weight, leaves.mask])
        for mine, other in zip(grads, expected, strict=True):
            assert relative_error(mine[i], other) < EXACT


# Not ours: forward-mode derivatives load decompositions through torch.jit.script, which warns.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_forward_mode_is_the_definitions(device):
    tensors = random_tensors(TINY).map(lambda t: t.to(device))
    tangents = tuple(t.to(device) for t in random_tensors(TINY, 1).present())
    got = jvp(function_of(tensors, TINY), tuple(tensors.present()), tangents)
    expected = jvp(function_of(tensors, TINY, reference.deform_conv3d), tuple(tensors.present()), tangents)
    for mine, other in zip(got, expected, strict=True):
        assert relative_error(mine, other) < EXACT
