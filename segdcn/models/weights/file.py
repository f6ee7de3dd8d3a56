"""Read weights from a file of whatever kind, and nothing but weights."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

# Under which names training programs keep what is to be used, the first first.
KEYS = ("state_dict", "model", "model_state_dict", "weights")

# Exact in float32, in which networks compute.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
COUNTS = torch.int64  # of num_batches_tracked


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        path: The file.
        tensors: Weights by name, as they are.
        key: Under which they lie in the file; None where they are all of it.
        others: Keys of other weights in it, such as averaged ones.
        settings: The configuration that mmsegmentation writes beside them, as text.
    """

    path: Path
    tensors: dict[str, Tensor]
    key: str | None = None
    others: tuple[str, ...] = ()
    settings: str = ""


def read_weights(path: Path, key: str | None = None) -> WeightsFile:
    """Read a state dict, or a checkpoint that holds one, onto the CPU; nothing in it is executed.

    Args:
        path: safetensors if its name ends so, else what torch.save wrote.
        key: Under which the weights lie in a checkpoint; None looks for them.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: It is damaged or holds other things than weights.
        UserValueError: There are no weights under `key`.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFileError(f"{path} {what}; expected a file of weights (.pth, .pt, .ckpt, .safetensors)")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    found = _candidates(content, path)
    key = key if key is not None else next((known for known in (None, *KEYS) if known in found), next(iter(found)))
    if key not in found:
        raise UserValueError(f"key is {key!r}, but {path} holds weights under {_listed(found)}")
    others = tuple(str(other) for other in found if other != key)
    return WeightsFile(path, dict(found[key]), key, others, _settings(content))


def in_float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give weights in float32, which changes no number, and normalisation its counts of batches.

    Files of before 2018 have no such counts, and networks with a fixed momentum do not compute with them.

    Args:
        tensors: Weights from a file.
        path: That file, for messages.

    Raises:
        InvalidDataError: Weights that float32 does not hold exactly, or that are infinite or NaN.
    """
    exact = {}
    for name, value in tensors.items():
        if value.layout != torch.strided or value.dtype not in (*DTYPES, COUNTS):
            dtype = str(value.dtype).removeprefix("torch.")
            raise InvalidDataError(f"{path}: {name} is {dtype}; expected numbers that float32 holds exactly")
        if not value.isfinite().all():
            raise InvalidDataError(f"{path}: {name} holds numbers that are infinite or NaN")
        exact[name] = value if value.dtype == COUNTS else value.detach().float()
        if name.endswith("running_mean"):
            count = name.removesuffix("running_mean") + "num_batches_tracked"
            exact.setdefault(count, tensors.get(count, torch.tensor(0)))
    return exact


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InvalidDataError(f"{path} cannot be read as safetensors: {str(error).splitlines()[0]}") from error


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*TorchScript archive")  # said below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different type for every kind of broken file
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            why = (
                f"holds more than weights ({match[1]}), and reading that could run code; where it was written, save "
                "the weights alone: torch.save(network.state_dict(), FILE)"
            )
        elif "TorchScript" in str(error):
            why = "is a TorchScript archive, which is a program; save the network's state dict instead"
        else:
            why = "cannot be read: it is damaged, or nothing that torch.save wrote"
        raise InvalidDataError(f"{path} {why}") from error


def _candidates(content: Any, path: Path) -> dict[str | None, Mapping[str, Tensor]]:
    """Find all groups of weights: the whole file, or what lies under keys of it."""
    if _are_weights(content):
        return {None: content}
    found = {name: value for name, value in content.items() if _are_weights(value)} if isinstance(content, dict) else {}
    if not found:
        what = f"a {type(content).__name__}"
        if isinstance(content, dict):
            what = f"a dict of {', '.join(map(str, list(content)[:5]))}" if content else "an empty dict"
        raise InvalidDataError(f"{path} holds no weights but {what}; expected a state dict, or a checkpoint with one")
    return found


def _are_weights(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _settings(content: Any) -> str:
    meta = content.get("meta") if isinstance(content, dict) else None
    found = [meta.get(name) for name in ("config", "cfg")] if isinstance(meta, dict) else []
    return next((text for text in found if isinstance(text, str)), "")


def _listed(found: Mapping[str | None, Any]) -> str:
    return "no key: they are all of it" if None in found else ", ".join(map(str, found))
