"""The hash of weights: the same for the same numbers, another for anything else."""

import hashlib

import torch

from segdcn.fingerprint import fingerprint


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "b": torch.randn(3, 4, 5, 6, generator=generator),
        "a": torch.arange(3),
        "count": torch.tensor(7),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "none": torch.empty(0, 2),
    }


def test_it_can_be_computed_by_hand():
    value = hashlib.sha256(b"\x01\x00\x02\x00").hexdigest()
    expected = hashlib.sha256(f"layer.weight int16 (2,) {value}\n".encode()).hexdigest()
    assert fingerprint({"layer.weight": torch.tensor([1, 2], dtype=torch.int16)}) == expected


def test_order_and_memory_format_do_not_matter():
    same = dict(reversed(weights().items()))
    same["b"] = torch.nn.Parameter(same["b"].to(memory_format=torch.channels_last))
    assert fingerprint(same) == fingerprint(weights())


def test_values_names_dtypes_and_shapes_matter():
    changed = {name: weights() for name in ("value", "name", "dtype", "shape", "missing")}
    changed["value"]["b"][1, 2, 3, 4] += 1e-6
    changed["name"]["c"] = changed["name"].pop("b")
    changed["dtype"]["a"] = changed["dtype"]["a"].view(torch.float64)
    changed["shape"]["b"] = changed["shape"]["b"].view(12, 5, 6)
    del changed["missing"]["none"]
    assert len({fingerprint(weights()), *map(fingerprint, changed.values())}) == 6
