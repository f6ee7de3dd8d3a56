"""Weights stored in half precision, and computed with in float32.

Half the file, and a result that differs from the trained network's by the rounding of the weights alone,
on every runtime; arithmetic in half precision would differ from one to the next.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from segdcn.errors import UserValueError


def is_halved(name: str, tensor: Tensor) -> bool:
    """Whether a weight is stored in half precision: kernels are; what predicts offsets, and vectors, are not.

    In bfloat16 an offset convolution's error is some hundredths of a pixel, for a few percent of the file.
    """
    return tensor.is_floating_point() and tensor.dim() > 1 and ".offset_conv." not in name


def halved(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Give weights as they are stored."""
    return {name: value.to(dtype) if is_halved(name, value) else value for name, value in weights.items()}


def rounded(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a network with the weights that are left of its own when they are stored in `dtype`.

    Raises:
        UserValueError: Some are too large for it.
    """
    copied = copy.deepcopy(network)
    weights = halved(copied.state_dict(), dtype)
    if lost := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise UserValueError(
            f"{len(lost)} weights hold numbers above {torch.finfo(dtype).max:g}, the largest in "
            f"{str(dtype).removeprefix('torch.')}, the first is {lost[0]}; try --half bfloat16, or leave it out"
        )
    copied.load_state_dict(weights)  # copies into float32
    return copied


class HalfWeights(nn.Module):
    """Holds a network's weights in half precision and runs it in float32.

    Args:
        network: Its weights are exact in `dtype`, as `rounded` makes them.
        dtype: float16 or bfloat16.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for name, weight in self.network.named_parameters():
            weight.requires_grad_(False)
            if is_halved(name, weight):
                weight.data = weight.data.to(dtype)

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        weights = {name: weight.float() for name, weight in self.network.named_parameters()}
        return functional_call(self.network, weights, (image,))
