"""A hash that tells whether weights are still those that were trained."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Hash weights: the same for the same names, dtypes, shapes and values, on any device and in any memory format.

    1. One line per tensor, sorted by name: `<name> <dtype> <shape> <sha256 of the values in row-major order>`.
    2. The sha256 of these lines.

    It tells apart what was changed by mistake or in passing on; who changes weights on purpose can
    write a new hash beside them.
    """
    return combined(tensor_lines(weights).values())


def tensor_lines(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Write the line of every tensor, by its name, sorted."""
    names = sorted(weights)
    # hashlib works outside the interpreter's lock, so that several tensors are hashed at once.
    with ThreadPoolExecutor() as threads:
        hashes = threads.map(_hash, (weights[name] for name in names))
        return {
            name: f"{name} {str(weights[name].dtype).removeprefix('torch.')} {tuple(weights[name].shape)} {value}\n"
            for name, value in zip(names, hashes, strict=True)
        }


def combined(lines: Iterable[str]) -> str:
    """Hash the lines of tensors, in the order of their names."""
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hash(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()
