import copy

import pytest
import torch

pytestmark = pytest.mark.cuda


def test_training_steps_of_a_deeplab_equal_the_cpus():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    from segdcn.models import build_deeplab

    torch.manual_seed(0)
    network = build_deeplab(architecture="deeplabv3plus", encoder="resnet18", num_classes=5).double().train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    twin = copy.deepcopy(network).to("cuda")
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(5, (2, 64, 96))
    losses = []
    for model in (network, twin):
        device = next(model.parameters()).device
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses.append([])
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(model(image.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss))
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-6, atol=1e-9)
