"""What autocast does to the operators: the rule, once for every way into them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet, _ExcludeDispatchKeyGuard  # what torch's own autocast uses

DEVICES = ("cpu", "cuda")


def enabled(device: torch.device) -> bool:
    """Whether an autocast region for this kind of device is around this call."""
    return device.type in DEVICES and torch.is_autocast_enabled(device.type)


def off(device: torch.device) -> AbstractContextManager:
    """Switch autocast off, on devices that have it (meta does not): it would round product by product."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def cast(device_type: str, input: Tensor, *others: Tensor | None) -> list[Any]:
    """Give the input, and what goes with it (a weight, a bias), the autocast dtype.

    float64 stays, as in torch's own autocast. Offsets, masks and regions are not to be given here: positions
    stay float32, because in bfloat16 one of 17 to 40 pixels is off by up to 1/16 of a pixel.
    """
    tensors = [input, *others]
    if input.dtype == torch.float64:
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return [None if t is None else t.to(dtype) for t in tensors]


def kernel(operator: str, device_type: str, casted: tuple[int, ...]) -> Callable[..., Tensor]:
    """Return an operator's kernel under autocast: it casts the arguments at the places `casted`, the input first."""
    key = DispatchKeySet(DispatchKey.AutocastCPU if device_type == "cpu" else DispatchKey.AutocastCUDA)

    def cast_and_call(*arguments: Any) -> Tensor:
        given = list(arguments)
        for place, tensor in zip(casted, cast(device_type, *(given[place] for place in casted)), strict=True):
            given[place] = tensor
        with _ExcludeDispatchKeyGuard(key):
            return getattr(torch.ops.segdcn, operator)(*given)

    return cast_and_call
