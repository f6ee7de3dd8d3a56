"""Half precision, chunks, empty and hostile input, instruction sets, refusals."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from geometry import AWKWARD, Geometry, random_tensors, relative_error

from segdcn.ops import deform_conv2d, library, reference
from segdcn.timing import peak_memory

# ---------------------------------------------------------------- dtypes


# Inputs are rounded to the dtype before both sides see them, so what is left is the
# rounding of columns, results and gradients: one unit in the last place each.
@pytest.mark.parametrize("dtype,limit", [(torch.float32, 2e-6), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
@pytest.mark.parametrize("channels", [12, 30, 36])  # 36 and 30 leave remainders beside whole registers
@pytest.mark.parametrize("batch", [2, 5])  # 48 and 120 output pixels: few are multiplied in another way
def test_every_dtype_agrees_with_float64(dtype, limit, channels, batch, device):
    geometry = replace(AWKWARD, batch=batch, channels=channels, groups=1)
    tensors = random_tensors(geometry, dtype=dtype).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv2d, geometry)
    expected, expected_grads = tensors.map(lambda t: t.double()).gradients(reference.deform_conv2d, geometry)
    assert output.dtype == dtype
    assert relative_error(output, expected) < limit
    for grad, other in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        assert relative_error(grad, other) < limit


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_float32_offsets_and_masks(dtype, device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))
    mixed = replace(
        tensors, input=tensors.input.to(dtype), weight=tensors.weight.to(dtype), bias=tensors.bias.to(dtype)
    )
    output, grads = mixed.gradients(deform_conv2d, AWKWARD)
    assert output.dtype == dtype
    assert [grad.dtype for grad in grads] == [dtype, torch.float32, dtype, dtype, torch.float32]
    expected = mixed.map(lambda t: t.double()).call(reference.deform_conv2d, AWKWARD)
    assert relative_error(output, expected) < 1.6e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_offsets_and_masks_are_computed_in_float32(dtype, device):
    tensors = random_tensors(AWKWARD, dtype=dtype).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv2d, AWKWARD)
    assert [grad.dtype for grad in grads] == [dtype] * 5
    expected, exact = tensors.map(lambda t: t.double()).gradients(reference.deform_conv2d, AWKWARD)
    limit = 1.6e-2 if dtype == torch.bfloat16 else 2e-3
    assert relative_error(output, expected) < limit
    assert max(map(relative_error, grads, exact)) < limit


@pytest.mark.parametrize("dtype,fields", [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float32")])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_the_batch(dtype, fields, channels_last):
    """Beyond inputs, outputs and gradients: copies are made for some images at a time."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dtype, fields = getattr(torch, dtype), getattr(torch, fields)

    def used(batch: int) -> float:
        input = torch.randn(batch, 32, 64, 64, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
        offset = torch.randn(batch, 72, 64, 64, dtype=fields, requires_grad=True)
        weight = torch.randn(32, 32, 3, 3, dtype=dtype, requires_grad=True)
        mask = torch.rand(batch, 36, 64, 64, dtype=fields, requires_grad=True)
        grad = torch.randn(batch, 32, 64, 64, dtype=dtype).contiguous(memory_format=layout)

        def step():
            output = deform_conv2d(input, offset, weight, padding=1, mask=mask)
            return output.detach(), *torch.autograd.grad(output, [input, offset, weight, mask], grad)

        step()
        return peak_memory(step, torch.device("cpu")) / 2**20

    assert used(32) < 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_stay_exact_at_width_4096_in_half_precision(dtype, device):
    """float16 counts in steps of 4 pixels there; a ramp in the last columns shows a wrong read."""
    width = 4096
    ramp = (torch.arange(width) % 8).to(dtype).view(1, 1, 1, width).to(device)
    offset = torch.zeros(1, 2, 1, width, device=device)
    offset[:, 1] = 0.25
    output = deform_conv2d(ramp, offset, torch.ones(1, 1, 1, 1, dtype=dtype, device=device))
    rising = (torch.arange(width - 1) % 8 < 7).to(device)
    got = (output - ramp)[0, 0, 0, :-1][rising].float()
    torch.testing.assert_close(got, torch.full_like(got, 0.25))


# ---------------------------------------------------------------- sizes


def test_an_empty_batch_gives_an_empty_result_and_gradients(device):
    geometry = replace(AWKWARD, batch=0)
    tensors = random_tensors(geometry).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv2d, geometry)
    assert output.shape == (0, 8, *geometry.out_size)
    assert [grad.shape for grad in grads] == [t.shape for t in tensors.present()]
    assert not grads[2].any()  # nothing was seen, so the weight's gradient is zero


@pytest.mark.parametrize(
    "dtype,channels_last,groups",
    [
        (torch.float32, False, 1),
        (torch.float32, True, 2),
        (torch.bfloat16, False, 2),
        (torch.bfloat16, True, 1),
    ],
)
def test_many_chunks_and_image_groups_change_nothing(dtype, channels_last, groups, device):
    """Columns come in chunks of 16 MiB, here 21,800 pixels; copies to NHWC in groups of images of 16 MiB.

    8 images of 6,144 pixels make 3 chunks that begin and end within images, and in the
    layouts that need copies up to 3 groups of images, the last one smaller.
    """
    geometry = Geometry(8, 64, 64, 96, 8, (1, 3), (1, 1), (0, 1), (1, 1), groups, 2, masked=True, biased=True)
    tensors = random_tensors(geometry, dtype=dtype).map(lambda t: t.to(device))
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=torch.channels_last)
    output, grads = tensors.gradients(deform_conv2d, geometry)
    expected, expected_grads = tensors.map(lambda t: t.float()).gradients(reference.deform_conv2d, geometry)
    limit = 1e-5 if dtype == torch.float32 else 1.6e-2
    assert relative_error(output, expected) < limit
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < limit


@pytest.mark.parametrize("groups,offset_groups", [(1, 1), (1, 8), (2, 1), (520, 1)])
def test_weights_of_more_than_one_pass(groups, offset_groups, device):
    """Packed weights take at most 16 MiB at a time, here 19 MiB in all; a map of 12 pixels."""
    geometry = Geometry(1, 520, 3, 4, 520, (3, 3), (1, 1), (1, 1), (1, 1), groups, offset_groups)
    tensors = random_tensors(geometry).map(lambda t: t.to(device))
    output, grads = tensors.gradients(deform_conv2d, geometry)
    expected, expected_grads = tensors.gradients(reference.deform_conv2d, geometry)
    assert relative_error(output, expected) < 1e-12
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < 1e-12


def _huge(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """2.3e9 elements, of which a few pixels at the end of the last image are not zero; read there only.

    Memory that nobody touches costs nothing, so this needs none to speak of: numpy leaves zeros to
    the system, torch.zeros writes them.
    """
    zeros = np.zeros((2, 12000, 12000, 8), str(dtype).removeprefix("torch."))
    input = torch.from_numpy(zeros).permute(0, 3, 1, 2)
    assert input.numel() > 2**31
    corner = torch.arange(1.0, 9.0) + 10 * torch.arange(4.0).view(2, 2, 1)
    input[1, :, 11998:, 11998:] = corner.permute(2, 0, 1).to(dtype)
    offset = torch.zeros(2, 2, 4, 4)  # stride 3999 reads at 0, 3999, 7998 and 11997
    offset[1, :, 3, 3] = 1.25
    return input, offset, corner


def test_more_elements_than_32_bits_count():
    input, offset, corner = _huge(torch.float16)
    output = deform_conv2d(input, offset, torch.ones(1, 8, 1, 1, dtype=torch.float16), stride=3999)
    weights = torch.tensor([[0.75 * 0.75, 0.75 * 0.25], [0.25 * 0.75, 0.25 * 0.25]])
    expected = torch.zeros(2, 1, 4, 4)
    expected[1, 0, 3, 3] = (corner.sum(2) * weights).sum()
    torch.testing.assert_close(output.float(), expected)


@pytest.mark.slow  # the gradient is written: 9 GiB
def test_gradients_of_more_elements_than_32_bits_count():
    input, offset, corner = _huge(torch.float32)
    input, offset = input.requires_grad_(), offset.requires_grad_()
    output = deform_conv2d(input, offset, torch.ones(1, 8, 1, 1), stride=3999)
    # Not backward(), which keeps a copy: 9 GiB more.
    grad_input, grad_offset = torch.autograd.grad(output[1, 0, 3, 3], (input, offset))
    weights = torch.tensor([[0.75 * 0.75, 0.75 * 0.25], [0.25 * 0.75, 0.25 * 0.25]])
    torch.testing.assert_close(grad_input[1, :, 11998:, 11998:], weights.expand(8, 2, 2))
    assert grad_input[0, :, :100].count_nonzero() == 0
    c = corner.sum(2)
    slope = 0.75 * (c[1, 0] - c[0, 0]) + 0.25 * (c[1, 1] - c[0, 1])
    torch.testing.assert_close(grad_offset[1, 0, 3, 3], slope)


def test_results_repeat_bit_for_bit(device, request):
    if device.type == "cuda":  # there on request only
        torch.use_deterministic_algorithms(True)
        request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    geometry = Geometry(3, 96, 33, 17, 32, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1, masked=True, biased=True)
    tensors = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.to(device))
    first, first_grads = tensors.gradients(deform_conv2d, geometry)
    for _ in range(3):
        again, grads = tensors.gradients(deform_conv2d, geometry)
        assert torch.equal(first, again)
        assert all(torch.equal(a, b) for a, b in zip(first_grads, grads, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_the_number_of_threads_does_not_matter_beyond_rounding(threads):
    """Threads share the work by image, offset group and slice of channels; none may be left out."""
    before = torch.get_num_threads()
    geometry = Geometry(1, 96, 9, 8, 16, (3, 3), (1, 1), (1, 1), (1, 1), 2, 1, masked=True, biased=True)
    tensors = random_tensors(geometry)
    expected, expected_grads = tensors.gradients(reference.deform_conv2d, geometry)
    try:
        torch.set_num_threads(threads)
        output, grads = tensors.gradients(deform_conv2d, geometry)
    finally:
        torch.set_num_threads(before)
    assert relative_error(output, expected) < 1e-12
    for grad, other in zip(grads, expected_grads, strict=True):
        assert relative_error(grad, other) < 1e-12


# ---------------------------------------------------------------- hostile numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 1e5, -17.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_reads_far_outside_or_at_no_number_give_zero(value, dtype, device):
    tensors = random_tensors(AWKWARD, dtype=dtype).map(lambda t: t.to(device))
    tensors.offset.fill_(value)
    output, (grad_input, grad_offset, grad_weight, _, grad_mask) = tensors.gradients(deform_conv2d, AWKWARD)
    torch.testing.assert_close(output, tensors.bias[None, :, None, None].expand_as(output))
    for grad in (grad_input, grad_offset, grad_weight, grad_mask):
        assert not grad.any()


def test_one_nan_offset_spoils_only_its_own_reads(device):
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(device))
    clean = tensors.call(deform_conv2d, AWKWARD)
    tensors.offset[0, 3, 1, 2] = float("nan")
    output, grads = tensors.gradients(deform_conv2d, AWKWARD)
    changed = (output != clean).any(dim=1)
    assert changed.sum() == 1 and changed[0, 1, 2]
    assert torch.isfinite(output).all() and all(torch.isfinite(grad).all() for grad in grads)
    expected, expected_grads = tensors.gradients(reference.deform_conv2d, AWKWARD)
    assert relative_error(output, expected) < 1e-12
    # Not the offset's: autograd of the definition gives 0 * NaN where NaN went in.
    assert relative_error(grads[0], expected_grads[0]) < 1e-12


def test_a_nan_in_the_map_reaches_only_reads_that_touch_it(device):
    """Corners outside the map are skipped, not read elsewhere and multiplied by zero."""
    tensors = random_tensors(AWKWARD, reach=2.0).map(lambda t: t.to(device))
    tensors.input[:, :, 0, 0] = float("nan")
    output = tensors.call(deform_conv2d, AWKWARD)
    expected = tensors.call(reference.deform_conv2d, AWKWARD)
    assert torch.equal(output.isnan(), expected.isnan())
    assert 0 < output.isnan().sum() < output.numel()


# ---------------------------------------------------------------- builds


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="one instruction set on this processor")
@pytest.mark.parametrize(
    "instruction_set,path", [("baseline", "direct"), ("avx2", "direct"), ("avx2", "columns"), ("avx512", "columns")]
)
def test_every_instruction_set_agrees_on_both_paths(instruction_set, path):
    """What runs on older processors, and the path that a dtype takes on others; see SEGDCN_CPU_PATH."""
    environment = {**os.environ, "SEGDCN_CPU": instruction_set, "SEGDCN_CPU_PATH": path}
    name = "import torch, segdcn.ops; print(torch.ops.segdcn.cpu_capability())"
    done = subprocess.run([sys.executable, "-c", name], env=environment, capture_output=True, text=True)
    if "this processor and build offer" in done.stderr:
        assert instruction_set == "avx512"  # all that has run in ten years offers the others
        return
    assert done.stdout.strip() == instruction_set
    names = ["every_dtype_agrees_with_float64", "many_chunks_and_image_groups", "reads_far_outside", "a_nan_in_the_map"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not cuda", "-p", "no:cacheprovider", __file__]
    done = subprocess.run([*command, "-k", " or ".join(names)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "44 passed" in done.stdout


@pytest.mark.parametrize("variable", ["SEGDCN_CPU", "SEGDCN_CPU_PATH"])
def test_a_choice_that_does_not_exist_is_refused(variable):
    code = (
        "import torch, segdcn.ops; segdcn.ops.deform_conv2d(torch.zeros(1, 1, 1, 1), torch.zeros(1, 2, 1, 1), "
        "torch.zeros(1, 1, 1, 1))"
    )
    environment = {**os.environ, variable: "avx9000"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and f"{variable} is avx9000" in done.stderr


def test_code_for_new_processors_cannot_leak_into_code_for_old_ones():
    """An inline library function in an AVX-512 object might be the copy the linker keeps."""
    objects = library.FOLDER.parent.parent / "build" / "cpu"
    paths = list(objects.glob("*loops_*.o"))
    assert paths
    for path in paths:
        symbols = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
        weak = [line for line in symbols.splitlines() if " W " in line or " V " in line]
        assert not weak, (path.name, weak)


def test_operators_and_layers_need_torch_only():
    blocked = ["pytorch_lightning", "wandb", "segmentation_models_pytorch", "albumentations", "cv2", "matplotlib"]
    code = (
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import segdcn.ops, segdcn.layers, torch\n"
        "layer = segdcn.layers.DeformableConv2d(3, 4, 3, padding=1)\n"
        "print(layer(torch.randn(1, 3, 8, 8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[1, 4, 8, 8]" in done.stdout


def test_a_missing_extension_is_named_when_called_not_when_imported(tmp_path):
    code = (
        "import pathlib, torch, importlib.util\n"
        "import segdcn\n"
        f"fake = pathlib.Path({str(tmp_path)!r})\n"
        "real = pathlib.Path.is_file\n"
        "pathlib.Path.is_file = lambda self: False if self.suffix == '.so' else real(self)\n"
        "from segdcn.ops import deform_conv2d\n"
        "from segdcn.layers import DeformableConv2d\n"
        "try: DeformableConv2d(3, 4, 3)(torch.randn(1, 3, 8, 8))\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not built" in done.stdout and "scripts/setup" in done.stdout


# ---------------------------------------------------------------- refusals


def _arguments(**changes) -> dict:
    tensors = random_tensors(AWKWARD)
    return {**vars(tensors), **AWKWARD.settings, **changes}


_good = random_tensors(AWKWARD)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"input": _good.input[0]}, "input has shape (12, 7, 9), but must have 4 dimensions"),
        ({"input": [1, 2]}, "input is a list"),
        ({"input": _good.input[:, :, :0]}, "only the batch may be empty"),
        ({"input": _good.input[:, :11]}, "must be a multiple"),
        ({"weight": _good.weight[:7]}, "must be a multiple of 2"),
        ({"offset": _good.offset[:, :35]}, "offset has 35 channels, but a 3x2 kernel needs a multiple of 12"),
        ({"offset": _good.offset[:, :0]}, "offset has 0 channels"),
        ({"offset": _good.offset.repeat(1, 5, 1, 1)}, "cannot be divided into 15 equal groups"),
        ({"offset": _good.offset[:, :, :-1], "mask": None}, "the size of the result"),
        ({"offset": _good.offset[:1], "mask": None}, "the batch of the input"),
        ({"mask": _good.mask[:, :17]}, "mask has 17 channels"),
        ({"mask": _good.mask[:, :, 1:]}, "batch, height and width must agree"),
        ({"bias": _good.bias[:3]}, "bias has shape (3,), but must be (8,)"),
        ({"bias": [1.0, 2.0]}, "bias is a list"),
        ({"bias": _good.bias.to("meta")}, "bias is on meta, but input is on cpu"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": (1, 2, 3)}, "stride is (1, 2, 3)"),
        ({"padding": -1}, "padding is -1"),
        ({"dilation": 1.5}, "dilation is 1.5"),
        # Beyond what 32 bits count, where positions would wrap around into the image.
        ({"stride": 2**31}, "stride is 2147483648, but must be at most 2147483647"),
        ({"padding": (0, 2**32)}, "padding is (0, 4294967296), but must be at most"),
        ({"padding": 2**70}, "padding is 1180591620717411303424, but must be at most"),
        ({"dilation": (2**32, 1)}, "dilation is (4294967296, 1), but must be at most"),
        ({"padding": (2**30, 0)}, "padding 1073741824 makes the input 2147483655 pixels long in height"),
        ({"dilation": (2**30, 1), "padding": (2**30, 0)}, "padding 1073741824 makes the input"),
        ({"dilation": (2**30, 1)}, "the kernel spans 2147483649 pixels in height"),
        (
            {"input": _good.input[:, :, :1, :1].expand(2, 12, 65536, 32768)},
            "input has shape (2, 12, 65536, 32768), but height times width must be less than 2147483647",
        ),
        ({"dilation": (9, 1)}, "the kernel spans 19 pixels in height"),
        ({"input": _good.input.int()}, "input has dtype torch.int32"),
        ({"weight": _good.weight.float()}, "weight has dtype torch.float32, but input has torch.float64"),
        ({"bias": _good.bias.float()}, "bias has dtype"),
        ({"offset": _good.offset.float()}, "offset has dtype torch.float32, but must be float64"),
        ({"mask": _good.mask.half()}, "mask has dtype torch.float16"),
        ({"offset": _good.offset.to("meta")}, "offset is on meta, but input is on cpu"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message):
    with pytest.raises(ValueError) as caught:
        deform_conv2d(**_arguments(**changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_padding_reads_where_it_should():
    """Outermost taps of a kernel as wide as the padded input; the middle one reads the only pixel."""
    reach = 2**30 - 1
    input, offset = torch.full((1, 1, 1, 1), 5.0, dtype=torch.float64), torch.zeros(1, 18, 1, 1, dtype=torch.float64)
    weight = torch.arange(1.0, 10, dtype=torch.float64).view(1, 1, 3, 3)
    output = deform_conv2d(input, offset, weight, padding=reach, dilation=reach)
    assert output.item() == 25


def test_the_registered_operator_is_safe_without_the_python_checks():
    """Someone may call torch.ops.segdcn directly: an error, never memory that is not ours."""
    tensors = random_tensors(AWKWARD)
    with pytest.raises(RuntimeError, match="segdcn.ops.deform_conv2d"):
        torch.ops.segdcn.deform_conv2d(
            tensors.input,
            tensors.weight,
            tensors.offset[:, :12],
            None,
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            2,
            3,
            False,
            False,
        )
