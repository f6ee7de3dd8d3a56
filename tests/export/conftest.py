"""A network as small as one can be that still has what exports are about: strides, offsets, upsampling."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from segdcn.description import Description
from segdcn.fingerprint import fingerprint
from segdcn.layers import DeformableConv2d


class Tiny(nn.Module):
    """Images (B, 3, H, W), H and W multiples of 4, to logits (B, 3, H, W)."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.middle = middle
        self.head = nn.Conv2d(8, 3, 1)
        self.upsampling = nn.UpsamplingBilinear2d(scale_factor=4)

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        return self.upsampling(self.head(self.middle(self.stem(image)).relu()))


def tiny_around(middle: nn.Module) -> Tiny:
    """Make a network whose deformable layers read off the grid, and some of the time out of the map."""
    torch.manual_seed(0)
    network = Tiny(middle)
    for name, parameter in network.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "offset_conv" in name else 0.3)
    return network.eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Around one deformable layer with all settings that a layer can have."""
    return tiny_around(DeformableConv2d(8, 8, (3, 2), padding=(2, 1), dilation=2, groups=2, offset_groups=2))


def described(network: nn.Module, **changes: object) -> Description:
    """Describe a tiny network."""
    description = Description(
        class_names=["sky", "straße", 'a "quoted" one'],
        palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.2, 0.25],
        size_divisor=4,
        config={"num_classes": 3},
        weights_sha256=fingerprint(network.state_dict()),
    )
    return replace(description, **changes)


@pytest.fixture(scope="session")
def describe():
    return described


@pytest.fixture(scope="session")
def network_with():
    return tiny_around
