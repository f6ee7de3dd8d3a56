"""Does a whole DeepLab compile into one graph, and stay compiled?"""

import pytest
import torch
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
        slow("deeplabv3plus", True, "inductor"),
        slow("deeplabv3plus", False, "inductor"),
    ],
)
def test_one_graph_for_every_batch_and_image_size(architecture, training, backend, monkeypatch):
    # In this process: the pool of compiling processes may be closed under one by an earlier test.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build_deeplab(architecture=architecture, encoder="resnet18", num_classes=4).train(training)
    for parameter in network.parameters():  # let the offsets be something
        torch.nn.init.normal_(parameter, std=0.02) if parameter.abs().sum() == 0 else None
    for module in network.modules():  # compiled or not, it would drop different pixels
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(network, backend=counter, fullgraph=True, dynamic=True)
    compilations = None
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
            gradient = network.encoder.layer4[1].conv2.offset_conv.weight.grad
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0
        compilations = compilations or counter.frame_count
        assert counter.frame_count == compilations, f"compiled again for {(batch, height, width)}"
