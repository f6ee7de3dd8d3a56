"""Does torch know deform_conv2d? Gradients, registration, autocast, compilation, layouts."""

from dataclasses import replace

import pytest
import torch
from geometry import AWKWARD, Geometry, random_tensors, relative_error
from torch.autograd import gradcheck

from segdcn.ops import deform_conv2d

SMALL = Geometry(batch=1, channels=6, height=5, width=4, out_channels=2)


# What two runs may differ by: on a GPU atomics add in any order.
NONDETERMINISTIC = {"cpu": 0.0, "cuda": 1e-12}


@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(device, masked):
    geometry = replace(SMALL, masked=masked)
    tensors = random_tensors(geometry, reach=1.5).map(lambda t: t.to(device).requires_grad_())

    def function(*present):
        names = [name for name, value in vars(tensors).items() if value is not None]
        return replace(tensors, **dict(zip(names, present, strict=True))).call(deform_conv2d, geometry)

    assert gradcheck(function, tensors.present(), fast_mode=False, nondet_tol=NONDETERMINISTIC[device.type])


@pytest.mark.parametrize("needed", ["input", "offset", "weight", "bias", "mask"])
def test_each_gradient_alone_is_the_same_as_with_the_others(needed, device):
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(device))
    _, all_grads = tensors.gradients(deform_conv2d, AWKWARD)
    leaf = getattr(tensors, needed).requires_grad_()
    output = tensors.call(deform_conv2d, AWKWARD)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(output)
    (alone,) = torch.autograd.grad(output, leaf, grad)
    # The loops differ in what they leave out, so sums may be rounded differently.
    assert relative_error(alone, all_grads[list(vars(tensors)).index(needed)]) < 1e-14


# Not ours: torch's own check of AOT dispatch looks at .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(device, channels_last, dtype):
    """Schema, fake kernel (strides included), autograd registration, AOT dispatch."""
    tensors = random_tensors(AWKWARD, dtype=dtype).map(lambda t: t.to(device))
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    offset, mask = tensors.offset.to(exact).requires_grad_(), tensors.mask.to(exact).requires_grad_()
    input = tensors.input.requires_grad_()
    if channels_last:
        input = tensors.input.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = tensors.weight.requires_grad_(), tensors.bias.requires_grad_()
    settings = [list(v) for v in (AWKWARD.stride, AWKWARD.padding, AWKWARD.dilation)]
    settings += [AWKWARD.groups, AWKWARD.offset_groups, channels_last, False]
    # Two ways to the same bfloat16 gradients may round differently.
    tolerance = {} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    torch.library.opcheck(torch.ops.segdcn.deform_conv2d, (input, weight, offset, mask, bias, *settings), **tolerance)
    with torch.no_grad():
        grad = torch.randn_like(torch.ops.segdcn.deform_conv2d(input, weight, offset, mask, bias, *settings))
    detached = [t.detach() for t in (grad, input, weight, offset, mask)]
    for needs in ([True, True, True, False], [False, True, False, True], [True, False, False, False]):
        torch.library.opcheck(torch.ops.segdcn.deform_conv2d_backward, (*detached, *settings, *needs), **tolerance)


def test_the_memory_format_of_the_input_is_the_results(device):
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(device).requires_grad_())
    assert tensors.call(deform_conv2d, AWKWARD).is_contiguous()
    last = replace(tensors, input=tensors.input.detach().contiguous(memory_format=torch.channels_last).requires_grad_())
    output = last.call(deform_conv2d, AWKWARD)
    assert output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()
    output.sum().backward()
    assert last.input.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_input_and_weight_but_not_the_positions(device, dtype):
    """An offset of 40.03 pixels is 40.0 in bfloat16: autocast must not round it."""
    geometry = Geometry(1, 8, 6, 64, 8, (1, 1), (1, 1), (0, 0), (1, 1), 1, 1, masked=True, biased=True)
    tensors = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.to(device))
    tensors.offset.zero_()
    tensors.offset[:, 1] = -20.03
    with torch.autocast(device.type, dtype=dtype):
        output = tensors.call(deform_conv2d, geometry)
    assert output.dtype == dtype
    rounded = replace(tensors, input=tensors.input.to(dtype).float(), weight=tensors.weight.to(dtype).float())
    # What is left is the rounding of columns and results: 3 significant digits at most.
    limit = 8e-3 if dtype == torch.bfloat16 else 1e-3
    assert relative_error(output, rounded.call(deform_conv2d, geometry)) < limit


def test_autocast_leaves_float64_alone(device):
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = tensors.call(deform_conv2d, AWKWARD)
    assert output.dtype == torch.float64
    mixed = replace(tensors, weight=tensors.weight.float())
    with torch.autocast(device.type, dtype=torch.bfloat16), pytest.raises(ValueError, match="weight has dtype"):
        mixed.call(deform_conv2d, AWKWARD)


def test_the_meta_device_gives_shapes():
    tensors = random_tensors(AWKWARD).map(lambda t: t.to("meta"))
    assert tensors.call(deform_conv2d, AWKWARD).shape == (2, 8, *AWKWARD.out_size)


def same(got: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal, or on a GPU, where atomics add in any order, equal but for rounding."""
    return relative_error(got, expected) < 1e-5 if got.is_cuda else torch.equal(got, expected)


def test_backward_inside_an_autocast_region_keeps_float32(device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))
    leaves = tensors.map(lambda t: t.clone().requires_grad_())
    output = leaves.call(deform_conv2d, AWKWARD)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(output)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        grads = torch.autograd.grad(output, leaves.present(), grad)
    for got, expected in zip(grads, tensors.gradients(deform_conv2d, AWKWARD)[1], strict=True):
        assert same(got, expected)


def test_a_second_derivative_inside_an_autocast_region_keeps_float32(device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))

    def second(inside):
        leaves = tensors.map(lambda t: t.clone().requires_grad_())
        output = leaves.call(deform_conv2d, AWKWARD)
        (first,) = torch.autograd.grad(output.square().sum(), leaves.input, create_graph=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=inside):
            return torch.autograd.grad(first.square().sum(), [leaves.input, leaves.weight])

    for got, expected in zip(second(True), second(False), strict=True):
        assert same(got, expected)


@pytest.mark.parametrize("needed", ["input", "weight"])
def test_torch_func_grad_under_autocast_is_autograds(needed, device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16):

        def loss(tensor):
            return replace(tensors, **{needed: tensor}).call(deform_conv2d, AWKWARD).float().square().sum()

        leaf = getattr(tensors, needed).clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        got = torch.func.grad(loss)(leaf.detach())
    assert got.dtype == torch.float32
    assert same(got, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit")  # not ours: jvp loads decompositions through torch.jit.script
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_jvp_under_autocast_gives_what_a_call_gives(given, device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))
    input = tensors.input.to(given)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        function = lambda input: replace(tensors, input=input).call(deform_conv2d, AWKWARD)  # noqa: E731
        output, tangent = torch.func.jvp(function, (input,), (input,))
        plain = function(input)
    assert output.dtype == tangent.dtype == plain.dtype == torch.bfloat16
    # Of the same rounded arguments; what is left is one rounding of the result.
    assert relative_error(output, plain) < 4e-3
    linear = plain.float() - tensors.bias[:, None, None]  # the derivative along the input itself
    assert relative_error(tangent, linear) < 1e-2


# Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiles_without_a_graph_break(device):
    tensors = random_tensors(AWKWARD, dtype=torch.float32).map(lambda t: t.to(device))
    compiled = torch.compile(deform_conv2d, fullgraph=True, backend="aot_eager")
    output, grads = tensors.gradients(compiled, AWKWARD)
    expected, expected_grads = tensors.gradients(deform_conv2d, AWKWARD)
    assert same(output, expected)
    for grad, other in zip(grads, expected_grads, strict=True):
        assert same(grad, other)
