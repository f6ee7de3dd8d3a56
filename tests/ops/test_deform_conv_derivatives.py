"""Second derivatives and torch.func: what autograd does beyond one backward pass."""

import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from geometry import AWKWARD, Geometry, random_tensors, relative_error
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from segdcn.ops import deform_conv2d, reference, second_derivative
from segdcn.timing import peak_memory

# Not ours: forward-mode derivatives load decompositions through torch.jit.script, which warns.
jit_warns = pytest.mark.filterwarnings("ignore:`torch.jit")

TINY = Geometry(1, 4, 4, 3, 2, (2, 2), (1, 1), (1, 0), (1, 1), 2, 2, masked=True, biased=True)


def function_of(tensors, geometry, operator=deform_conv2d):
    """The operator as a function of the tensors that are there."""
    names = [name for name, value in vars(tensors).items() if value is not None]
    return lambda *present: replace(tensors, **dict(zip(names, present, strict=True))).call(operator, geometry)


# ---------------------------------------------------------------- second derivatives


@pytest.mark.parametrize("masked", [False, True])
def test_gradgradcheck(device, masked):
    geometry = replace(TINY, masked=masked)
    tensors = random_tensors(geometry, reach=1.5).map(lambda t: t.to(device).requires_grad_())
    assert gradgradcheck(
        function_of(tensors, geometry), tensors.present(), fast_mode=True, nondet_tol=1e-12 * device.type.count("cuda")
    )


def _gradient_penalty(tensors, geometry, operator):
    leaves = tensors.map(lambda t: t.detach().clone().requires_grad_())
    output = leaves.call(operator, geometry)
    grads = torch.autograd.grad(output.square().sum(), leaves.present(), create_graph=True)
    penalty = sum(g.square().sum() for g in grads)
    return torch.autograd.grad(penalty, leaves.present())


@pytest.mark.parametrize("chunk", [1, 700, 1 << 18])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_gradient_penalty_is_the_definitions_however_it_is_cut(chunk, channels_last, device, monkeypatch):
    """Rows of output pixels are taken a few at a time; stride, padding and dilation must still fit."""
    monkeypatch.setattr(second_derivative, "CHUNK_ELEMENTS", chunk)
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(device))
    if channels_last:
        tensors.input = tensors.input.contiguous(memory_format=torch.channels_last)
    expected = _gradient_penalty(tensors, AWKWARD, reference.deform_conv2d)
    for got, other in zip(_gradient_penalty(tensors, AWKWARD, deform_conv2d), expected, strict=True):
        assert relative_error(got, other) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_second_derivative_in_half_precision(dtype, device):
    tensors = random_tensors(AWKWARD, dtype=dtype).map(lambda t: t.to(device) / 4)
    exact = tensors.map(lambda t: t.double())
    expected = _gradient_penalty(exact, AWKWARD, reference.deform_conv2d)
    for got, other in zip(_gradient_penalty(tensors, AWKWARD, deform_conv2d), expected, strict=True):
        assert got.dtype == dtype
        assert relative_error(got, other) < 3e-2


def test_a_third_derivative_exists_and_is_right(device):
    tensors = random_tensors(TINY).map(lambda t: t.to(device))

    def third(operator):
        leaves = tensors.map(lambda t: t.detach().clone().requires_grad_())
        (first,) = torch.autograd.grad(leaves.call(operator, TINY).pow(3).sum(), leaves.offset, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaves.input, create_graph=True)
        return torch.autograd.grad(second.square().sum(), leaves.weight)[0]

    assert relative_error(third(deform_conv2d), third(reference.deform_conv2d)) < 1e-12


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_memory_of_a_second_derivative_does_not_grow_with_the_batch():
    """About 75 MiB and a dozen copies of an image and of the weight; the whole batch at once would take 500 MiB."""
    geometry = Geometry(3, 64, 32, 32, 64, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1)
    leaves = random_tensors(geometry, dtype=torch.float32).map(lambda t: t.requires_grad_())
    output = leaves.call(deform_conv2d, geometry)
    grad_output = torch.randn_like(output).requires_grad_()
    firsts = torch.autograd.grad(output, leaves.present(), grad_output, create_graph=True)
    seconds = [torch.randn_like(g) for g in firsts[:3]]  # bias has none, being linear

    def second():
        return torch.autograd.grad(firsts[:3], [grad_output, leaves.input, leaves.weight], seconds, retain_graph=True)

    second()
    assert peak_memory(second, torch.device("cpu")) < 110 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_what_a_second_derivative_does_not_use_takes_no_memory():
    """Zeros, copies in float32 and parts of 16 images would be 8 MiB each for the input, 5 for the offset."""
    used = {}
    for batch in (1, 16):
        geometry = Geometry(batch, 32, 64, 64, 8, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1)
        tensors = random_tensors(geometry, dtype=torch.bfloat16)
        tensors.weight.requires_grad_()
        output = tensors.call(deform_conv2d, geometry)
        grad_output = torch.randn_like(output).requires_grad_()
        (first,) = torch.autograd.grad(output, tensors.weight, grad_output, create_graph=True)
        second = partial(torch.autograd.grad, first, grad_output, torch.randn_like(first), retain_graph=True)
        second()
        used[batch] = peak_memory(second, torch.device("cpu")) / 2**20
    assert max(used.values()) < 90
    assert used[16] < used[1] + 12


def test_a_second_derivative_of_an_empty_batch(device):
    tensors = random_tensors(replace(TINY, batch=0)).map(lambda t: t.to(device))
    grads = _gradient_penalty(tensors, TINY, deform_conv2d)
    assert [g.shape for g in grads] == [t.shape for t in tensors.present()]


@jit_warns
@pytest.mark.parametrize("strided", ["sliced", "transposed"])
def test_a_weight_whose_kernel_dimensions_cannot_be_merged(strided, device):
    tensors = random_tensors(TINY).map(lambda t: t.to(device))
    dense = tensors.weight
    larger = dense.new_zeros(*dense.shape[:2], 4, 5)
    larger[:, :, 1:3, 1:3] = dense
    transposed = dense.transpose(2, 3).contiguous().transpose(2, 3)
    weight = {"sliced": larger[:, :, 1:3, 1:3], "transposed": transposed}[strided]

    def derivatives(weight):
        leaf = tensors.input.clone().requires_grad_()
        function = lambda input: replace(tensors, input=input, weight=weight).call(deform_conv2d, TINY)  # noqa: E731
        (first,) = torch.autograd.grad(function(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0], jvp(function, (leaf,), (leaf,))[1].detach()

    for got, expected in zip(derivatives(weight), derivatives(dense), strict=True):
        assert relative_error(got, expected) < 1e-12


# ---------------------------------------------------------------- torch.func


@pytest.fixture
def per_sample(device):
    """Five samples of one image each, mapped over; weight and bias of one, or each its own."""
    many = [random_tensors(TINY, seed).map(lambda t: t.to(device)) for seed in range(5)]
    return [torch.stack(ts) for ts in zip(*[t.present() for t in many], strict=True)]


@pytest.mark.parametrize(
    "in_dims", [(0, 0, None, None, 0), (0, 0, 0, 0, 0), (None, 0, None, None, None), (0, 0, 0, None, 0)]
)
def test_vmap(per_sample, in_dims):
    """Arguments are input, offset, weight, bias, mask."""
    tensors = random_tensors(TINY).map(lambda t: t.to(per_sample[0].device))
    given = [s if dim == 0 else s[0] for s, dim in zip(per_sample, in_dims, strict=True)]
    got = vmap(function_of(tensors, TINY), in_dims)(*given)
    for i in range(5):
        alone = [s[i] if dim == 0 else s[0] for s, dim in zip(per_sample, in_dims, strict=True)]
        assert relative_error(got[i], function_of(tensors, TINY)(*alone)) < 1e-12


def test_vmap_over_another_dimension_and_twice(per_sample):
    tensors = random_tensors(TINY).map(lambda t: t.to(per_sample[0].device))
    input, offset, weight, bias, mask = per_sample
    function = function_of(tensors, TINY)
    expected = torch.stack([function(i, o, weight[0], bias[0], m) for i, o, m in zip(input, offset, mask, strict=True)])
    moved = vmap(function, (2, 1, None, None, 3))(
        input.movedim(0, 2), offset.movedim(0, 1), weight[0], bias[0], mask.movedim(0, 3)
    )
    assert relative_error(moved, expected) < 1e-12
    inner = vmap(function, (0, 0, None, None, 0))
    twice = vmap(inner, (0, 0, 0, 0, 0))(
        *[torch.stack([t, t]) for t in (input, offset)], weight[:2], bias[:2], torch.stack([mask, mask])
    )
    assert relative_error(twice[0], expected) < 1e-12
    assert relative_error(twice[1], expected) > 1e-3


@pytest.mark.parametrize("argnums", [(0, 1, 2, 3, 4), (2,), (0,), (1, 4)])
def test_grad_of_every_sample(per_sample, argnums):
    tensors = random_tensors(TINY).map(lambda t: t.to(per_sample[0].device))

    def gradients(operator):
        function = function_of(tensors, TINY, operator)
        return vmap(grad(lambda *args: function(*args).square().sum(), argnums), (0, 0, None, None, 0))(
            per_sample[0], per_sample[1], per_sample[2][0], per_sample[3][0], per_sample[4]
        )

    for got, expected in zip(gradients(deform_conv2d), gradients(reference.deform_conv2d), strict=True):
        assert relative_error(got, expected) < 1e-12


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("argnums", [(0,), (1,), (0, 1)])
def test_grad_of_samples_that_are_empty_batches(argnums, masked, device):
    geometry = replace(TINY, batch=0, masked=masked, biased=False)
    tensors = random_tensors(geometry).map(lambda t: t.to(device))
    many = [t.expand(3, *t.shape) if t.shape[0] == 0 else t for t in tensors.present()]
    function = function_of(tensors, geometry)
    dims = (0, 0, None, 0)[: len(many)]
    grads = vmap(grad(lambda *args: function(*args).sum(), argnums), dims)(*many)
    assert [g.shape for g in grads] == [many[i].shape for i in argnums]


@jit_warns
@pytest.mark.parametrize("transform", ["vjp", "jacrev", "jvp", "hessian", "grad of grad"])
def test_other_transforms(transform, device):
    tensors = random_tensors(TINY).map(lambda t: t.to(device))
    direction = random_tensors(TINY, seed=1).map(lambda t: t.to(device)).present()

    def result(operator):
        function, present = function_of(tensors, TINY, operator), tensors.present()
        partly = lambda offset: function(present[0], offset, *present[2:]).square().mean((2, 3))  # noqa: E731
        match transform:
            case "vjp":
                output, pull = vjp(function, *present)
                return pull(torch.ones_like(output))
            case "jacrev":
                return jacrev(function, argnums=(0, 1, 2, 3, 4))(*present)
            case "jvp":
                return jvp(function, tuple(present), tuple(direction))
            case "hessian":
                return (hessian(lambda offset: partly(offset).sum())(present[1]),)
            case "grad of grad":
                inner = grad(lambda offset: partly(offset).sum())
                return (grad(lambda offset: inner(offset).square().sum())(present[1]),)

    for got, expected in zip(result(deform_conv2d), result(reference.deform_conv2d), strict=True):
        assert expected.abs().sum() > 0
        assert relative_error(got, expected) < 1e-12


@jit_warns
def test_forward_mode_by_dual_numbers(device):
    tensors = random_tensors(TINY, reach=1.5).map(lambda t: t.to(device).requires_grad_())
    modes = {"check_forward_ad": True, "check_backward_ad": False, "fast_mode": True}
    assert gradcheck(
        function_of(tensors, TINY), tensors.present(), **modes, nondet_tol=1e-12 * device.type.count("cuda")
    )
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(tensors.weight.detach(), torch.ones_like(tensors.weight))
        tangent = forward_ad.unpack_dual(replace(tensors, weight=dual).call(deform_conv2d, TINY)).tangent.detach()
    ones = replace(tensors, weight=torch.ones_like(tensors.weight), bias=None)
    assert relative_error(tangent, ones.call(deform_conv2d, TINY).detach()) < 1e-12  # linear in the weight


# Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
@jit_warns
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("transform", ["jvp", "jacfwd", "dual numbers"])
def test_forward_mode_compiles_and_is_right(backend, transform, device):
    """A registered operator without a forward-mode derivative gives tangents of zero, not an error."""
    torch._dynamo.reset()
    tensors = random_tensors(TINY).map(lambda t: t.to(device))

    def derivative(input, operator):
        function = lambda input: replace(tensors, input=input).call(operator, TINY)  # noqa: E731
        match transform:
            case "jvp":
                return jvp(function, (input,), (input,))[1]
            case "jacfwd":
                return jacfwd(function)(input)
            case "dual numbers":
                with forward_ad.dual_level():
                    return forward_ad.unpack_dual(function(forward_ad.make_dual(input, input))).tangent

    compiled = torch.compile(partial(derivative, operator=deform_conv2d), backend=backend, fullgraph=True)
    expected = derivative(tensors.input, reference.deform_conv2d)
    assert expected.abs().sum() > 0
    assert relative_error(compiled(tensors.input), expected) < 1e-12


@jit_warns
@pytest.mark.parametrize("operator", ["forward", "backward"])
def test_the_registered_operators_refuse_tangents(operator, device):
    """They have no forward-mode derivative; without an error the tangent would be zero."""
    tensors = random_tensors(TINY).map(lambda t: t.to(device))
    settings = (*[list(pair) for pair in TINY.settings.values()], TINY.groups, TINY.offset_groups, False, False)

    def raw(input):
        given = (tensors.weight, tensors.offset, tensors.mask, tensors.bias, *settings)
        return torch.ops.segdcn.deform_conv2d(input, *given)

    if operator == "forward":
        with pytest.raises(NotImplementedError, match="segdcn.deform_conv2d has no forward-mode derivative"):
            jvp(raw, (tensors.input,), (tensors.input,))
        return
    leaf = tensors.input.clone().requires_grad_()
    output = raw(leaf)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="deform_conv2d_backward has no"):
        torch.autograd.grad(output, leaf, forward_ad.make_dual(torch.ones_like(output), torch.ones_like(output)))


def test_dual_numbers_elsewhere_leave_the_fast_path(device, monkeypatch):
    """The level is the whole process's: another thread's, or one whose dual numbers do not come here."""
    tensors = random_tensors(TINY).map(lambda t: t.to(device))
    monkeypatch.setattr(reference, "deform_conv2d", None)
    with forward_ad.dual_level():
        tensors.call(deform_conv2d, TINY)


@jit_warns
def test_transforms_in_half_precision(device):
    tensors = random_tensors(TINY, dtype=torch.bfloat16).map(lambda t: t.to(device))
    present = tensors.present()
    output, tangent = jvp(function_of(tensors, TINY), tuple(present), tuple(map(torch.ones_like, present)))
    assert output.dtype == tangent.dtype == torch.bfloat16
    assert relative_error(output, tensors.call(deform_conv2d, TINY)) < 1.6e-2
    pulled = vjp(partial(function_of(tensors, TINY)), *present)[1](torch.ones_like(output))
    assert [p.dtype for p in pulled] == [torch.bfloat16] * 5
