"""From feature pixel to image pixel: against the receptive fields that autograd finds."""

import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.models import build_encoder, make_deformable
from segdcn.offsets import Frame, frames


def centre_of_what_it_sees(network: nn.Module, image: torch.Tensor, layer: DeformableConv2d, row: int) -> float:
    """The middle of the rows that a pixel of the layer's input depends on."""
    seen = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(image)
    hook.remove()
    image.grad = None
    seen[0][0, :, row].sum().backward()
    rows = image.grad[0].abs().sum((0, 2)).nonzero()
    assert 0 < rows.min() and rows.max() < image.shape[2] - 1  # else the border would cut it
    return (rows.min() + rows.max()).item() / 2


@pytest.mark.parametrize(
    "encoder,output_stride,dilation",
    [("resnet18", 32, None), ("resnet18", 16, 4), ("resnet50", 16, None)],
)
def test_the_encoders_frames_are_the_centres_of_their_receptive_fields(encoder, output_stride, dilation):
    network = build_encoder(encoder, None, output_stride, dilation)
    make_deformable(network, 3)
    network.maxpool = nn.AvgPool2d(3, 2, 1)  # a maximum depends on one of its pixels only
    for module in network.modules():  # all positive, so that nothing cancels
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    for layer in (m for m in network.modules() if isinstance(m, DeformableConv2d)):
        nn.init.zeros_(layer.offset_conv.weight)
    network.eval()
    height = 704
    image = torch.rand(1, 3, height, 16, requires_grad=True)
    found = frames(network)
    assert len(found) == 3
    for name, frame in found.items():
        layer = network.get_submodule(name)
        row = height // int(frame.stride[0]) // 2
        assert centre_of_what_it_sees(network, image, layer, row) == frame.start[0] + row * frame.stride[0]
    assert found[name].after(layer).stride == (output_stride, output_stride)


def test_frames_by_hand():
    """A 4x4 kernel of stride 2 and padding 1 reads -1 .. 2 for pixel 0, around 0.5; then 0.5 + 2 * 1."""
    network = nn.Sequential(
        nn.Conv2d(1, 1, 4, stride=2, padding=1),
        DeformableConv2d(1, 1, 3, dilation=(1, 2), stride=(2, 1)),
        nn.MaxPool2d(2),
        DeformableConv2d(1, 1, 1),
    )
    found = frames(network)
    assert found["1"] == Frame((2, 2), (0.5, 0.5))
    assert found["1"].after(network[1]) == Frame((4, 2), (2.5, 4.5))
    assert found["3"] == Frame((8, 4), (4.5, 5.5))
    y, x = torch.tensor([3.25]), torch.tensor([-1.0])
    assert [float(v) for v in found["3"].to_map(*found["3"].to_image(y, x))] == [3.25, -1.0]
