"""Checkpoints that are damaged, changed, or of something else."""

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from attempt import Mutation
from pictures import CHECKPOINT
from settings import FIT

VALIDATE = ["validate", "--config=base.yaml", "--data=shapes.yaml", "--name=new", "--ckpt_path=bad.ckpt"]
VERBS = {
    "validate": VALIDATE,
    "fit": [*FIT, "--ckpt_path=bad.ckpt", "--trainer.max_epochs=2"],
    "offsets": ["offsets", "bad.ckpt", "picture.png", "--output=out"],
    "export": ["export", "bad.ckpt", "--format=safetensors", "--output=out"],
}


class Hostile:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


def _write(path: Path, value: bytes | Any) -> None:
    path.write_bytes(value) if isinstance(value, bytes) else torch.save(value, path)


def _cut(whole: bytes, rng: Random) -> bytes:
    return whole[: rng.randint(1, len(whole) - 100)]


def _changed(whole: bytes, rng: Random) -> bytes:
    """Change bytes in the stored weights."""
    spoilt = bytearray(whole)
    for _ in range(20):
        spoilt[rng.randrange(len(whole) // 4, len(whole) // 2)] ^= rng.randint(1, 255)
    return bytes(spoilt)


def _zip(rng: Random) -> bytes:
    import io

    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100_000_000))
    return stored.getvalue()


FILES: dict[str, Callable[[bytes, Random], Any]] = {
    "cut short": _cut,
    "cut short to its start": lambda whole, rng: whole[: rng.randint(1, 5000)],
    "cut short at its end": lambda whole, rng: whole[: -rng.randint(1, 200)],
    "changed weights": _changed,
    "start overwritten": lambda whole, rng: rng.randbytes(rng.randint(4, 500)) + whole[500:],
    "empty": lambda whole, rng: b"",
    "text": lambda whole, rng: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n",
    "random bytes": lambda whole, rng: rng.randbytes(100_000),
    "a pickle that runs a command": lambda whole, rng: pickle.dumps(Hostile()),
    "a checkpoint that runs a command": lambda whole, rng: {"state_dict": Hostile(), "hyper_parameters": {}},
    "a zip of something else": lambda whole, rng: _zip(rng),
    "a tensor": lambda whole, rng: torch.ones(3),
    "a list": lambda whole, rng: [1, 2, 3],
    "a plain state dict": lambda whole, rng: {"conv.weight": torch.ones(3, 3)},
    "state_dict of no tensors": lambda whole, rng: {"state_dict": {"a": 1}, "hyper_parameters": {}},
    "no settings": lambda whole, rng: {"state_dict": {}, "hyper_parameters": {}},
    "settings are a list": lambda whole, rng: {"state_dict": {}, "hyper_parameters": [1]},
    "weights are a list": lambda whole, rng: {"state_dict": [1], "hyper_parameters": {}},
    "weights are a number": lambda whole, rng: {"state_dict": 5, "hyper_parameters": {}},
}


def damaged() -> Iterator[Mutation]:
    for name, damage in FILES.items():
        for verb, line in VERBS.items():

            def make(folder: Path, rng: Random, damage: Callable = damage, line: list[str] = line) -> list[str]:
                _write(folder / "bad.ckpt", damage((folder / CHECKPOINT).read_bytes(), rng))
                return line

            yield Mutation(f"{verb}: {name}", make)


def setting(name: str, value: Any) -> Callable[[dict, Random], None]:
    def change(checkpoint: dict, rng: Random) -> None:
        checkpoint["hyper_parameters"][name] = value

    return change


def _nan(checkpoint: dict, rng: Random) -> None:
    weights = checkpoint["state_dict"]
    weights[rng.choice([key for key, value in weights.items() if value.is_floating_point()])].fill_(float("nan"))


def _nan_without_hash(checkpoint: dict, rng: Random) -> None:
    for key, value in checkpoint["state_dict"].items():
        if key.startswith("network.segmentation_head") and value.is_floating_point():
            value.fill_(float("nan"))
    checkpoint.pop("weights_sha256", None)


def _swapped(checkpoint: dict, rng: Random) -> None:
    """Exchange two weights of one shape."""
    weights = checkpoint["state_dict"]
    first, second = rng.sample([key for key, value in weights.items() if value.shape == (512, 512, 3, 3)], 2)
    weights[first], weights[second] = weights[second], weights[first]


def _renamed(checkpoint: dict, rng: Random) -> None:
    weights = checkpoint["state_dict"]
    weights["network.other"] = weights.pop(rng.choice(list(weights)))
    checkpoint.pop("weights_sha256", None)


def _reshaped(checkpoint: dict, rng: Random) -> None:
    weights = checkpoint["state_dict"]
    key = rng.choice([key for key, value in weights.items() if value.ndim == 4])
    weights[key] = weights[key][:-1]
    checkpoint.pop("weights_sha256", None)


def _emptied(checkpoint: dict, rng: Random) -> None:
    checkpoint["state_dict"] = {}
    checkpoint.pop("weights_sha256", None)


def removed(*keys: str) -> Callable[[dict, Random], None]:
    def change(checkpoint: dict, rng: Random) -> None:
        for key in keys:
            checkpoint.pop(key, None)

    return change


def replaced(key: str, value: Any) -> Callable[[dict, Random], None]:
    def change(checkpoint: dict, rng: Random) -> None:
        checkpoint[key] = value

    return change


CHANGES: dict[str, Callable[[dict, Random], None]] = {
    "NaN in a weight": _nan,
    "NaN in the head, and no hash": _nan_without_hash,
    "two weights exchanged": _swapped,
    "a weight renamed": _renamed,
    "a weight of another shape": _reshaped,
    "no weights": _emptied,
    "no version of Lightning": removed("pytorch-lightning_version"),
    "no step": removed("global_step"),
    "no epoch": removed("epoch"),
    "no state of callbacks": removed("callbacks"),
    "a hash of nothing": replaced("weights_sha256", "0" * 64),
    "a hash that is a number": replaced("weights_sha256", 5),
    **{
        f"{name} is {str(value)[:30]!r}": setting(name, value)
        for name, values in {
            "num_classes": [-1, 0, 2, 10**12, "seven", None, 3.5, float("nan")],
            "class_names": [None, "names", [1] * 7, ["a"] * 3, ["\x1b[31mred"] * 7],
            "encoder": ["resnet999", "../../x", None, 5, "resnet34"],
            "architecture": ["unet", None],
            "deform_layers": [-1, 10**9, "three", 0],
            "output_stride": [0, 7, None],
            "offset_groups": [0, 10**9],
            "mean": [None, [0], ["a", "b", "c"], [float("nan")] * 3, "grey"],
            "std": [[0, 0, 0], None, [1]],
            "palette": ["red", [[1]], [[999, 0, 0]] * 7],
            "unknown_setting": [1],
        }.items()
        for value in values
    },
}


def changed() -> Iterator[Mutation]:
    for name, change in CHANGES.items():
        for verb, line in VERBS.items():
            if _harmless(name, verb):
                continue

            def make(folder: Path, rng: Random, change: Callable = change, line: list[str] = line) -> list[str]:
                checkpoint = torch.load(folder / CHECKPOINT, weights_only=True)
                change(checkpoint, rng)
                torch.save(checkpoint, folder / "bad.ckpt")
                return line

            yield Mutation(f"{verb}: {name}", make)


def _harmless(name: str, verb: str) -> bool:
    """Leave out what a verb rightly takes no notice of: the data's own normalisation and colours win in training."""
    if verb in ("export", "offsets") and name.startswith(("no version", "no step", "no epoch", "no state")):
        return True  # which need the network alone
    if verb == "validate" and name.startswith(("no step", "no epoch", "no state")):
        return True
    if verb in ("export", "offsets") and name.startswith("class_names is 'None'"):
        return True  # which gives them numbers
    return verb in ("validate", "fit") and name.startswith(("mean", "std", "palette", "num_classes", "unknown_setting"))


STATE = {
    "no optimizer": removed("optimizer_states"),
    "optimizer is a number": replaced("optimizer_states", 7),
    "optimizer of nothing": replaced("optimizer_states", [{"state": {}, "param_groups": []}]),
    "no loops": removed("loops"),
    "loops are a list": replaced("loops", []),
    "loops of nothing": replaced("loops", {"fit_loop": {}}),
    "no epoch": removed("epoch"),
    "epoch is a text": replaced("epoch", "second"),
    "step is a text": replaced("global_step", "tenth"),
    "no step": removed("global_step"),
    "no version": removed("pytorch-lightning_version"),
    "version is a number": replaced("pytorch-lightning_version", 7),
    "version is of the future": replaced("pytorch-lightning_version", "x.y"),
    "callbacks are a list": replaced("callbacks", [1]),
    "run is a number": replaced("segdcn", 5),
    "random numbers are a text": replaced("segdcn", {"random": {"cpu": "text"}}),
    "random numbers are too few": replaced("segdcn", {"random": {"cpu": torch.zeros(3, dtype=torch.uint8)}}),
    "another optimizer": setting("optimizer", "adamw"),
    "no optimizer's name": setting("optimizer", None),
}


def unfit_to_go_on() -> Iterator[Mutation]:
    for name, change in STATE.items():

        def make(folder: Path, rng: Random, change: Callable = change) -> list[str]:
            last = folder / "runs/tried/2026-01-01_00-00-00/checkpoints/last.ckpt"
            checkpoint = torch.load(last, weights_only=True)
            change(checkpoint, rng)
            torch.save(checkpoint, folder / "bad.ckpt")
            return VERBS["fit"]

        yield Mutation(name, make, starts=True)


CATEGORIES = {
    "checkpoints that are damaged": damaged,
    "checkpoints that were changed": changed,
    "checkpoints to go on from": unfit_to_go_on,
}
