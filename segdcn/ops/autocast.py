"""What autocast does to the operators: the rule, once for every way into them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")


def enabled(device: torch.device) -> bool:
    """Whether an autocast region for this kind of device is around this call."""
    return device.type in DEVICES and torch.is_autocast_enabled(device.type)


def off(device: torch.device) -> AbstractContextManager:
    """Switch autocast off: what is to be exact in plain torch would be rounded product by product."""
    return torch.autocast(device.type, enabled=False) if device.type in DEVICES else nullcontext()


def cast(device_type: str, input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Give input, weight and bias the autocast dtype.

    float64 stays, as in torch's own autocast; offsets and masks stay float32, because
    positions of 17 to 40 pixels in bfloat16 are off by up to 1/16 of a pixel.
    """
    if input.dtype == torch.float64:
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device_type)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
