"""What only a GPU can show; every other operator test runs there as well (the `device` fixture)."""

from dataclasses import replace

import pytest
import torch
import torchvision
from geometry import AWKWARD, Geometry, Tensors, random_geometry, random_tensors, relative_error

from segdcn.ops import deform_conv2d

pytestmark = pytest.mark.cuda

RESNET = Geometry(2, 64, 33, 33, 64, (3, 3), (1, 1), (2, 2), (2, 2), 1, 1)


# 1.5 GB of columns and 150 MB of gradient sums in float32: tens of chunks, several groups of images.
LARGE = Geometry(8, 512, 65, 65, 512, (3, 3), (1, 1), (2, 2), (2, 2), 1, 1)


def everything(tensors: Tensors) -> list[torch.Tensor]:
    """A result and its gradients."""
    output, grads = tensors.gradients(deform_conv2d, LARGE)
    return [output, *grads]


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return torch.device("cuda")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("seed", range(30))
def test_it_equals_the_cpu_in_float64(seed, gpu):
    geometry = random_geometry(seed)
    tensors = random_tensors(geometry, seed)
    expected, expected_grads = tensors.gradients(deform_conv2d, geometry)
    got, grads = tensors.map(lambda t: t.to(gpu)).gradients(deform_conv2d, geometry)
    assert relative_error(got.cpu(), expected) < 1e-12
    assert max(relative_error(a.cpu(), b) for a, b in zip(grads, expected_grads, strict=True)) < 1e-12


def test_it_equals_torchvision_there(gpu):
    tensors = random_tensors(RESNET).map(lambda t: t.to(gpu))
    expected, expected_grads = tensors.gradients(torchvision.ops.deform_conv2d, RESNET)
    got, grads = tensors.gradients(deform_conv2d, RESNET)
    assert relative_error(got, expected) < 1e-12
    assert max(map(relative_error, grads, expected_grads)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [64, 66, 61])
def test_every_width_of_vectors(dtype, channels, gpu):
    """Channels that divide by 8, by 2 and by nothing; and maps that are not aligned to 16 bytes."""
    geometry = replace(RESNET, channels=channels)
    tensors = random_tensors(geometry, dtype=dtype).map(lambda t: t.to(gpu))
    expected, exact = tensors.map(lambda t: t.double()).gradients(deform_conv2d, geometry)
    storage = torch.empty(tensors.input.numel() + 1, dtype=dtype, device=gpu)
    batch, _, height, width = tensors.input.shape
    shifted = storage[1:].view(batch, height, width, channels).permute(0, 3, 1, 2)  # NHWC, so it is not copied
    limit = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}[dtype]
    for input in (
        tensors.input,
        tensors.input.contiguous(memory_format=torch.channels_last),
        shifted.copy_(tensors.input),
    ):
        got, grads = replace(tensors, input=input).gradients(deform_conv2d, geometry)
        assert relative_error(got, expected) < limit
        assert max(map(relative_error, grads, exact)) < limit


def test_float32_follows_the_setting_for_convolutions(gpu):
    tensors = random_tensors(replace(RESNET, channels=512), dtype=torch.float32).map(lambda t: t.to(gpu))
    exact = tensors.map(lambda t: t.double()).call(deform_conv2d, RESNET)
    errors = {}
    for precision in ("ieee", "tf32"):
        torch.backends.cudnn.conv.fp32_precision = precision
        errors[precision] = relative_error(tensors.call(deform_conv2d, RESNET), exact)
    assert errors["ieee"] < 3e-6  # most of it from positions in float32
    assert 1e-5 < errors["tf32"] < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_under_deterministic_algorithms(dtype, gpu, deterministic):
    tensors = random_tensors(LARGE, dtype=dtype).map(lambda t: t.to(gpu))
    output, grads = tensors.gradients(deform_conv2d, LARGE)
    for _ in range(3):
        again, more = tensors.gradients(deform_conv2d, LARGE)
        assert torch.equal(output, again)
        assert all(map(torch.equal, grads, more))


def test_the_deterministic_gradient_is_the_same_gradient(gpu, deterministic):
    tensors = random_tensors(AWKWARD).map(lambda t: t.to(gpu))
    _, grads = tensors.gradients(deform_conv2d, AWKWARD)
    torch.use_deterministic_algorithms(False)
    _, expected = tensors.gradients(deform_conv2d, AWKWARD)
    assert max(map(relative_error, grads, expected)) < 1e-12


@pytest.mark.parametrize("fixed_order", [False, True])
def test_it_can_be_captured_in_a_graph(fixed_order, gpu):
    tensors = random_tensors(RESNET, dtype=torch.float32).map(lambda t: t.to(gpu))
    leaves = tensors.map(lambda t: t.clone().requires_grad_())
    torch.use_deterministic_algorithms(fixed_order)
    try:

        def step() -> list[torch.Tensor]:
            output = leaves.call(deform_conv2d, RESNET)
            return [output.detach(), *torch.autograd.grad(output.square().sum(), leaves.present())]

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()  # handles and workspaces are made outside the capture
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = step()
        fresh = random_tensors(RESNET, seed=1, dtype=torch.float32)
        with torch.no_grad():
            for leaf, value in zip(leaves.present(), fresh.present(), strict=True):
                leaf.copy_(value)
        graph.replay()
        got = [r.clone() for r in results]
        for a, b in zip(got, step(), strict=True):
            assert relative_error(a, b) < 1e-5
    finally:
        torch.use_deterministic_algorithms(False)


def test_two_streams_do_not_disturb_each_other(gpu):
    """Of several chunks and groups of images each, forward and backward."""
    jobs = [random_tensors(LARGE, seed, dtype=torch.float32).map(lambda t: t.to(gpu)) for seed in (0, 1)]
    expected = [everything(job) for job in jobs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in jobs]
    results: list[list[list[torch.Tensor]]] = [[], []]
    for _ in range(4):
        for job, stream, result in zip(jobs, streams, results, strict=True):
            with torch.cuda.stream(stream):
                result.append(everything(job))
    torch.cuda.synchronize()
    for result, right in zip(results, expected, strict=True):
        for got in result:
            assert max(map(relative_error, got, right)) < 1e-5


def test_chunks_and_groups_of_images_change_nothing_at_a_size_of_networks(gpu):
    """bfloat16 beside float64, which go through other numbers of chunks and groups."""
    tensors = random_tensors(LARGE, dtype=torch.bfloat16).map(lambda t: t.to(gpu))
    got, exact = everything(tensors), everything(tensors.map(lambda t: t.double()))
    assert max(map(relative_error, got, exact)) < 2e-2


def test_it_does_not_wait_for_the_gpu(gpu):
    tensors = random_tensors(RESNET, dtype=torch.bfloat16).map(lambda t: t.to(gpu))
    tensors.gradients(deform_conv2d, RESNET)
    leaves = tensors.map(lambda t: t.requires_grad_())
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = leaves.call(deform_conv2d, RESNET)
        torch.autograd.grad(output, leaves.present(), torch.ones_like(output))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_more_elements_than_32_bits_count(gpu):
    if torch.cuda.get_device_properties(gpu).total_memory < 40 * 2**30:
        pytest.skip("needs an NVIDIA GPU with 40 GiB")
    input = torch.zeros(1, 2**31 // (1024 * 1024) + 8, 1024, 1024, dtype=torch.float16, device=gpu)
    input = input.contiguous(memory_format=torch.channels_last)
    channels = input.shape[1]
    input[:, -1, 1020:] = torch.randn(4, 1024, device=gpu).half()
    weight = torch.zeros(1, channels, 1, 1, dtype=torch.float16, device=gpu)
    weight[:, -1] = 1
    offset = torch.full((1, 2, 1024, 1024), 0.5, device=gpu)
    got = deform_conv2d(input, offset, weight)
    expected = deform_conv2d(input[:, -1:].contiguous(), offset, weight[:, -1:].contiguous())
    assert torch.equal(got, expected)


@pytest.mark.parametrize("sizes,dilation", [((8, 512, 64, 128, 512), 1), ((8, 512, 65, 65, 512), 2)])
def test_memory_stays_small(sizes, dilation, gpu):
    """At most 128 MiB beyond inputs, outputs and gradients."""
    from segdcn.timing import peak_memory

    batch, channels, height, width, out = sizes
    last = torch.channels_last

    def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, device=gpu, dtype=dtype).contiguous(memory_format=last).requires_grad_()

    input, weight = random(batch, channels, height, width), random(out, channels, 3, 3)
    offset = random(batch, 18, height, width, dtype=torch.float32)
    mask = random(batch, 9, height, width, dtype=torch.float32)
    grad = random(batch, out, height, width).detach()

    def step():
        output = deform_conv2d(input, offset, weight, None, 1, dilation, dilation, mask)
        return output.detach(), *torch.autograd.grad(output, [input, offset, weight, mask], grad)

    step()
    assert peak_memory(step, gpu) <= 128 * 2**20
