"""Does a whole DeepLab compile into one graph, and stay compiled?"""

import pytest
import torch
import torch._inductor.config
from torch._dynamo.testing import CompileCounterWithBackend

from segdcn.models import build_deeplab

# The first size is not square: torch takes sizes that are equal once to be equal always, and
# compiles again, once, when they are not; every network shows that, deformable or not.
SIZES = [(2, 64, 96), (3, 64, 96), (4, 96, 64), (2, 96, 96), (5, 128, 160)]

pytestmark = [
    # Not ours: torch's compiler imports its C++ builder, which looks for nvcc and warns.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "architecture,training,backend",
    [
        ("deeplab", True, "aot_eager"),
        slow("deeplab", False, "aot_eager"),
        slow("deeplabv3", True, "aot_eager"),
        slow("deeplabv3", False, "aot_eager"),
        slow("deeplabv3plus", True, "aot_eager"),
        slow("deeplabv3plus", False, "aot_eager"),
    ],
)
def test_one_graph_for_every_batch_and_image_size(architecture, training, backend):
    counts = compilations(architecture, training, backend)
    assert counts == [counts[0]] * len(SIZES)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
def test_the_code_generator_compiles_no_more_often_than_for_the_plain_network(training):
    """Inductor has conditions of its own, such as how many pixels a normalisation sums over."""
    # In this process: the pool of compiling processes may be closed under one by an earlier test.
    with torch._inductor.config.patch(compile_threads=1):
        deformable, plain = (compilations("deeplabv3plus", training, "inductor", layers) for layers in (3, 0))
    assert all(a <= b for a, b in zip(deformable, plain, strict=True)), (deformable, plain)


@pytest.mark.slow
def test_a_network_with_an_auxiliary_head_is_one_graph():
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build_deeplab(architecture="deeplab", encoder="resnet18", num_classes=4, auxiliary_head=True).train()
    network.auxiliary_head[3].p = 0.0  # compiled or not, it would drop different channels
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, height, width in SIZES[:2]:
        image = torch.randn(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
        for got, expected in zip(compiled(image), network(image), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def compilations(architecture, training, backend, deform_layers=3) -> list[int]:
    """Compile a network and run it in all sizes; how often it was compiled until after each of them."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build_deeplab(
        architecture=architecture, encoder="resnet18", num_classes=4, deform_layers=deform_layers
    ).train(training)
    for parameter in network.parameters():  # let the offsets be something
        torch.nn.init.normal_(parameter, std=0.02) if parameter.abs().sum() == 0 else None
    for module in network.modules():  # compiled or not, it would drop different pixels
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(network, backend=counter, fullgraph=True, dynamic=True)
    counts = []
    for batch, height, width in SIZES:
        image = torch.randn(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(training):
            got, expected = compiled(image), network(image)  # training normalises with the batch: no state
        # Batch statistics of maps of a few pixels amplify rounding.
        tolerance = 1e-2 if training else 1e-4
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        if training:
            network.zero_grad()
            got.square().mean().backward()
            last = network.encoder.layer4[1].conv2
            gradient = (last.offset_conv if deform_layers else last).weight.grad
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        counts.append(counter.frame_count)
    return counts
