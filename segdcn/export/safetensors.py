"""A folder of weights and settings: nothing in it can be code.

model.safetensors     the network's weights, under its names
config.json           what the network is built from, classes, colours, normalisation, hashes
"""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingFileError
from segdcn.export.half import halved
from segdcn.export.trained import Trained, rebuild
from segdcn.fingerprint import fingerprint

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_folder(network: torch.nn.Module, description: Description, path: Path) -> None:
    """Write the folder, which must not exist."""
    path.mkdir()
    weights = halved(network.state_dict(), getattr(torch, description.weights_dtype))
    weights = {name: value.contiguous() for name, value in weights.items()}
    (path / WEIGHTS).write_bytes(safetensors.torch.save(weights))  # save_file lets nobody else read it
    written = {"format": "segdcn", **asdict(description), "content_sha256": fingerprint(weights)}
    (path / CONFIG).write_text(json.dumps(written, indent=2) + "\n")


def is_folder(path: Path) -> bool:
    """Whether a folder holds these two files, and nothing else."""
    return path.is_dir() and {file.name for file in path.iterdir()} == {WEIGHTS, CONFIG}


def read_folder(path: Path) -> Trained:
    """Rebuild the network that a folder describes.

    Raises:
        MissingFileError: One of the files is not there.
        InvalidDataError: A file is damaged or was changed, or they do not belong together.
    """
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            raise MissingFileError(f"{path} holds no {name}; expected a folder that segdcn export wrote")
    try:
        written = json.loads((path / CONFIG).read_text())
        weights = safetensors.torch.load_file(path / WEIGHTS)
    except (ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise InvalidDataError(f"{path} holds a damaged file: {str(error).splitlines()[0]}") from error
    if not isinstance(written, dict):
        raise InvalidDataError(f"{path / CONFIG} holds no settings")
    description = Description.from_values(written, path / CONFIG)
    if written.get("content_sha256") != fingerprint(weights):
        raise InvalidDataError(
            f"the weights in {path} are not those that were written: they were changed, or are damaged; "
            "take an untouched copy"
        )
    return Trained(rebuild(description.config, weights, path).network, description)
