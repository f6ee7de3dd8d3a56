"""What training left behind, made a network again."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segdcn import run
from segdcn.description import Description
from segdcn.errors import InvalidDataError
from segdcn.fingerprint import fingerprint
from segdcn.task import SegmentationTask

_log = logging.getLogger("segdcn")


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in evaluation mode on the CPU, and what is known about it."""

    network: nn.Module
    description: Description


def read_checkpoint(path: Path) -> Trained:
    """Read a checkpoint and rebuild its network; errors are `read_task`'s."""
    task, description, hashed = read_task(path)
    if not hashed:
        _log.warning("%s holds no hash of its weights, so nothing tells whether they were changed", path)
    return Trained(task.network, description)


def read_task(path: Path) -> tuple[SegmentationTask, Description, bool]:
    """Read a checkpoint without executing anything in it, and rebuild what was trained.

    Returns:
        The task, in evaluation mode on the CPU; its description; whether the weights were proven by a hash.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: It is damaged or no checkpoint, weights are missing or were changed, or it does
            not say with what to normalise.
    """
    checkpoint = run.read_checkpoint(path)
    config = {key: value for key, value in checkpoint["hyper_parameters"].items() if not key.startswith("_")}
    if "num_classes" not in config:
        raise InvalidDataError(f"{path} is not a checkpoint of segdcn: it names no num_classes")
    weights = run.network_weights(checkpoint["state_dict"])
    task = rebuild(config, weights, path)
    names = config.get("class_names") or [f"class {index}" for index in range(config["num_classes"])]
    if config.get("mean") is None or config.get("std") is None:
        raise InvalidDataError(f"{path} does not say with which mean and std images were normalised; train it on data")
    values = {
        "class_names": names,
        "palette": config.get("palette"),
        "mean": config["mean"],
        "std": config["std"],
        "size_divisor": task.network.size_divisor,
        "config": config,
        "weights_sha256": checkpoint.get(run.HASH) or fingerprint(weights),
    }
    return task, Description.from_values(values, path), run.HASH in checkpoint


def build(config: Mapping[str, Any], path: object) -> SegmentationTask:
    """Build what `config` describes, with random weights.

    Raises:
        InvalidDataError: The settings make no network; the message names `path`.
    """
    try:
        # encoder_weights: replaced anyway, and never to be downloaded.
        return SegmentationTask(**{**config, "encoder_weights": None})
    except Exception as error:  # of whatever settings may be in a file
        what = " ".join(str(error).split()) or type(error).__name__
        raise InvalidDataError(f"{path}: its settings make no network: {what}") from error


def rebuild(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> SegmentationTask:
    """Build the network that `config` describes and give it weights.

    Raises:
        InvalidDataError: The settings make no network, or not one with these weights.
    """
    task = build(config, path)
    network = task.network
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if different := sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name)):
        first = different[0]
        raise InvalidDataError(
            f"{path} holds other weights than its settings ask for: {len(different)} differ, the first is {first} "
            f"({given.get(first, 'missing')} in the file, {wanted.get(first, 'not wanted')} by the settings)"
        )
    network.load_state_dict(weights)
    return task.eval()
