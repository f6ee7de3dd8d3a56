"""Does torch know the RoI poolings? Gradients, registration, autocast, compilation, layouts."""

from dataclasses import replace

import pytest
import torch
from geometry import relative_error
from regions import NAMES, Case, draw
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx

from segdcn.ops import deform_roi_pool

SMALL = {"batch": 2, "height": 7, "width": 6, "channels": 3, "count": 4, "ph": 2, "pw": 2, "samples": 2}
SMALL |= {"moves": True, "group": 2, "classes": 2, "depth": 1, "scale": 1.0, "gamma": 0.1, "parts": None, "size": None}


def smooth(name: str, device: torch.device) -> Case:
    """Draw a case without reads near a whole pixel, where finite differences straddle a kink, nor near the border."""
    for seed in range(200):
        case = draw(name, seed, **SMALL, last=False)
        case = replace(case, offset=case.offset * 0.2).map(lambda t: t.to(device))
        close = case.gradients()
        for step in (1e-4, -1e-4):
            moved = replace(case, offset=case.offset + step).gradients()
            if not all(torch.allclose(a, b, rtol=0.02, atol=1e-3) for a, b in zip(close, moved, strict=True)):
                break
        else:
            return case
    raise AssertionError("no smooth case found")


def operator(case: Case):
    return lambda input, offset: replace(case, input=input, offset=offset).call()


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name, device):
    case = smooth(name, device)
    assert gradcheck(operator(case), (case.input.requires_grad_(), case.offset.requires_grad_()))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name, device):
    case = smooth(name, device)
    assert gradgradcheck(operator(case), (case.input.requires_grad_(), case.offset.requires_grad_()), fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_without_an_offset(name, device):
    case = replace(smooth(name, device), offset=None)
    assert gradgradcheck(lambda input: replace(case, input=input).call(), case.input.requires_grad_(), fast_mode=True)


# Not ours: torch scripts its own decompositions when forward mode is first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_and_torch_func_are_not_silently_zero(name, device):
    case = smooth(name, device)
    function, primals = operator(case), (case.input, case.offset)
    tangents = tuple(torch.randn(p.shape, dtype=p.dtype).to(p) for p in primals)
    output, tangent = torch.func.jvp(function, primals, tangents)
    step = 1e-6
    ahead = function(*(p + step * t for p, t in zip(primals, tangents, strict=True)))
    behind = function(*(p - step * t for p, t in zip(primals, tangents, strict=True)))
    assert relative_error(tangent, (ahead - behind) / (2 * step)) < 1e-6
    with forward_ad.dual_level():  # and so are dual numbers, without torch.func
        dual = function(*map(forward_ad.make_dual, primals, tangents))
        assert relative_error(forward_ad.unpack_dual(dual).tangent, tangent) < 1e-12
    torch.testing.assert_close(output, case.call())
    grads = torch.func.grad(lambda *leaves: function(*leaves).square().sum(), argnums=(0, 1))(*primals)
    leaves = [p.clone().requires_grad_() for p in primals]
    expected = torch.autograd.grad(function(*leaves).square().sum(), leaves)
    assert max(map(relative_error, grads, expected)) < 1e-10


@pytest.mark.parametrize("name", NAMES)
def test_the_registered_operators_refuse_tangents(name, device):
    """torch.library would drop them without a word."""
    input, rois = torch.ones(1, 4, 5, 5, device=device), torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    settings = ([2, 2], 1.0, 2, 0.1, False) if name == "deform_roi_pool" else (1, 2, [2, 2], [2, 2], 2, 0.1, 1.0, False)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=f"{name} has no forward-mode derivative"):
        getattr(torch.ops.segdcn, name)(forward_ad.make_dual(input, input), rois, None, *settings)


def settings_of(case: Case) -> list:
    """The arguments of the registered operator after its tensors."""
    s = case.settings
    if case.name == "deform_roi_pool":
        values = [list(s["output_size"]), s["spatial_scale"], s["sampling_ratio"], s["gamma"]]
    else:
        size = [s["group_size"]] * 2
        values = [s["output_dim"], s["group_size"], size, size, s["samples_per_part"], s["trans_std"]]
        values.append(s["spatial_scale"])
    return [*values, not case.input.is_contiguous()]


# Not ours: torch's own check of AOT dispatch looks at .grad of its copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(name, last, dtype, device):
    """Schema, fake kernel (strides included), autograd registration, AOT dispatch."""
    case = draw(name, 3, **SMALL, last=last).map(lambda t: t.to(device))
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    input, rois, offset = case.input.to(dtype).requires_grad_(), case.rois, case.offset.to(exact).requires_grad_()
    settings = settings_of(case)
    forward, backward = (getattr(torch.ops.segdcn, f"{name}{suffix}") for suffix in ("", "_backward"))
    tolerance = {} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 2e-2}
    torch.library.opcheck(forward, (input, rois, offset, *settings), **tolerance)
    torch.library.opcheck(forward, (input, rois, None, *settings), **tolerance)
    with torch.no_grad():
        grad = torch.randn_like(forward(input, rois, offset, *settings))
    tensors = (grad, input.detach(), rois, offset.detach())
    for needs in ([True, True, False], [False, True, True], [True, False, False]):
        torch.library.opcheck(backward, (*tensors, *settings, *needs), **tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_format_of_the_input_is_the_results(name, device):
    for last in (False, True):
        case = draw(name, 3, **SMALL, last=last).map(lambda t: t.to(device))
        output, grad_input, _ = case.gradients()
        for tensor in (output, grad_input):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == last
            assert tensor.is_contiguous() != last


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("needed", [0, 1])
def test_each_gradient_alone_is_the_same_as_with_the_other(name, needed, device):
    case = draw(name, 3, **SMALL).map(lambda t: t.to(device))
    together = case.gradients()[1:]
    leaf = case.leaves()[needed].requires_grad_()
    output = case.call()
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(output)
    (alone,) = torch.autograd.grad(output, leaf, grad)
    assert relative_error(alone, together[needed]) < 1e-13


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_the_input_but_not_the_positions(name, dtype, device):
    """A corner at 300.3 is 300 in bfloat16: autocast must not round it."""
    case = draw(name, 3, **SMALL).map(lambda t: t.to(device, torch.float32))
    shifted = case.rois.clone()
    case = replace(case, rois=shifted)
    with torch.autocast(device.type, dtype=dtype):
        output = case.call()
    assert output.dtype == dtype
    rounded = replace(case, input=case.input.to(dtype).float())
    assert relative_error(output, rounded.call()) < (8e-3 if dtype == torch.bfloat16 else 1e-3)
    with torch.autocast(device.type, dtype=dtype):
        assert draw(name, 3, **SMALL).map(lambda t: t.to(device)).call().dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_torch_func_under_autocast_gives_what_autograd_gives_there(name, device):
    case = draw(name, 3, **SMALL).map(lambda t: t.to(device, torch.float32))
    leaves = [leaf.clone().requires_grad_() for leaf in case.leaves()]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        output = operator(case)(*leaves)
        expected = torch.autograd.grad(output.float().square().sum(), leaves)
        result, pull = torch.func.vjp(operator(case), *case.leaves())
        assert result.dtype == output.dtype == torch.bfloat16
        found = pull((2 * output.float()).to(output.dtype).detach())
    assert max(map(relative_error, found, expected)) < 2e-2  # eight bits of the results


# Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_compiles_for_any_number_of_regions_and_any_scale(name, device):
    torch._dynamo.reset()
    case = draw(name, 3, **SMALL).map(lambda t: t.to(device, torch.float32))

    def pool(rois, offset, scale):
        return replace(case, rois=rois, offset=offset, settings=case.settings | {"spatial_scale": scale}).call()

    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend="aot_eager")
    for count, scale in ((4, 1.0), (3, 0.5), (2, 0.25)):
        arguments = (case.rois[:count], case.offset[:count], scale)
        assert torch.equal(compiled(*arguments), pool(*arguments))


def test_fake_tensors_and_traces_need_no_values():
    case = draw("deform_roi_pool", 3, **SMALL)
    with FakeTensorMode() as mode:
        shape = case.map(mode.from_tensor).call().shape
    assert shape == case.call().shape
    tensors = (case.input, case.rois, case.offset)
    for mode in ("real", "symbolic"):
        traced = make_fx(lambda i, r, o: replace(case, input=i, rois=r, offset=o).call(), tracing_mode=mode)(*tensors)
        assert torch.equal(traced(*tensors), case.call())


def test_vmap_over_maps_and_offsets_with_samples_by_size(device):
    case = draw("deform_roi_pool", 3, **{**SMALL, "samples": 0}).map(lambda t: t.to(device))
    inputs, offsets = torch.stack([case.input, 2 * case.input]), torch.stack([case.offset, -case.offset])
    found = torch.vmap(operator(case))(inputs, offsets)
    for i in range(2):
        torch.testing.assert_close(found[i], operator(case)(inputs[i], offsets[i]))
    pooled = torch.vmap(lambda rois: replace(case, rois=rois).call())
    with pytest.raises(NotImplementedError, match="give a sampling_ratio"):
        pooled(torch.stack([case.rois, case.rois]))


@pytest.mark.parametrize("name", NAMES)
def test_the_meta_device_gives_shapes(name):
    case = draw(name, 3, **SMALL)
    assert case.map(lambda t: t.to("meta")).call().shape == case.call().shape


# Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiles_without_a_graph_break(device):
    case = draw("deform_roi_pool", 3, **SMALL).map(lambda t: t.to(device, torch.float32))
    input, offset = case.input.clone().requires_grad_(), case.offset.clone().requires_grad_()
    compiled = torch.compile(deform_roi_pool, fullgraph=True, backend="aot_eager")
    output = compiled(input, case.rois, offset, (2, 2), 1.0, 2)
    grads = torch.autograd.grad(output.sum(), [input, offset])
    expected = deform_roi_pool(input, case.rois, offset, (2, 2), 1.0, 2)
    assert torch.equal(output, expected)
    for got, want in zip(grads, torch.autograd.grad(expected.sum(), [input, offset]), strict=True):
        assert torch.equal(got, want)
