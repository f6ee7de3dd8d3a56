"""Where to compute, and whether its memory was too small."""

from typing import Literal

import torch

from segdcn.errors import UserValueError
from segdcn.predictor import Predictor

DeviceName = Literal["cpu", "cuda"]


def chosen_device(name: str) -> torch.device:
    """Return cpu or cuda.

    Raises:
        UserValueError: It is neither, or torch sees no GPU.
    """
    if name not in ("cpu", "cuda"):
        raise UserValueError(f"device is {name!r}, but must be cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserValueError("device is cuda, but torch sees no GPU here; use --device cpu")
    return torch.device(name)


def move(predictor: Predictor, device: torch.device, name: object) -> None:
    """Have a predictor compute on a device.

    Raises:
        UserValueError: It is a file that computes elsewhere.
    """
    if predictor.network is not None:
        predictor.network.to(device)
    elif predictor.description.device != device.type:
        raise UserValueError(f"device is {device}, but {name} computes on {predictor.description.device} only")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is too little memory; on the CPU torch and onnxruntime have no type for it."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
