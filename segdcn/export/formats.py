"""The formats: how each is written and opened."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingFileError
from segdcn.export import onnx, program, safetensors
from segdcn.export.half import HalfWeights
from segdcn.export.trained import Trained, read_checkpoint
from segdcn.predictor import Predictor


class Format(NamedTuple):
    """One of the values of `segdcn export --format`."""

    ending: str  # where no output is given, it is the checkpoint's name with this
    write: Callable[[nn.Module, Description, Path], None]
    runtime: str  # what runs the file when it is compared with the network

    @property
    def suffix(self) -> str:
        """What the name of every file of the format ends in; nothing for a folder."""
        return self.ending[self.ending.index(".") :] if "." in self.ending else ""


FORMATS = {
    "onnx": Format(".onnx", partial(onnx.write_onnx, portable_form=False), "onnxruntime"),
    "onnx-portable": Format("-portable.onnx", partial(onnx.write_onnx, portable_form=True), "onnxruntime"),
    "program": Format(".pt2", partial(program.write_program, portable_form=False), "torch.export"),
    "program-portable": Format("-portable.pt2", partial(program.write_program, portable_form=True), "torch.export"),
    "aoti": Format("-aoti.pt2", program.write_package, "AOTInductor"),
    "safetensors": Format("-weights", safetensors.write_folder, "torch"),
}


# Endings of files that a network cannot be rebuilt from: the last is half of a folder.
NO_NETWORK = (".onnx", ".pt2", ".safetensors")


def read_trained(path: Path) -> Trained:
    """Read a checkpoint, or a folder of safetensors; neither is executed.

    Raises:
        MissingFileError: There is nothing of that name.
        InvalidDataError: It is damaged, was changed, or is of another kind.
    """
    if not path.exists():
        raise MissingFileError(f"there is no {path}; expected a checkpoint, or a folder of safetensors")
    if path.is_file() and path.suffix in NO_NETWORK:
        raise InvalidDataError(
            f"{path} does not hold all that makes a network; give the checkpoint, or the folder of safetensors"
        )
    if (path / "checkpoints").is_dir():
        raise MissingFileError(f"{path} is the folder of a run; give one of the files in {path / 'checkpoints'}")
    return safetensors.read_folder(path) if path.is_dir() else read_checkpoint(path)


def write(trained: Trained, format: str, path: Path) -> None:
    """Write a network in a format, as its description says (`weights_dtype`, `device`); nothing is compared yet.

    Raises:
        UserError: The format does not hold such a network, or a package is missing.
    """
    network: nn.Module = trained.network
    description = trained.description
    if description.weights_dtype != "float32" and format != "safetensors":
        network = HalfWeights(network, getattr(torch, description.weights_dtype)).eval()
    FORMATS[format].write(network, description, path)


def load(path: str | Path, trust: bool = False) -> Predictor:
    """Open what `segdcn fit` or `segdcn export` wrote, to label pictures with it.

        labels = segdcn.load("best.ckpt").predict("street.jpg")   # (H, W) class ids

    Weights are checked against the hash that was written with them.

    Args:
        path: A checkpoint, a folder of safetensors, an ONNX file (`.onnx`), a program or a package
            (`.pt2`).
        trust: Programs and packages can hold code, and are refused without. The others never run
            anything from the file.

    Returns:
        A Predictor. Its `network`, from a checkpoint or safetensors, is on the CPU: move it, and it predicts there.

    Raises:
        MissingFileError: There is nothing of that name.
        InvalidDataError: It is damaged, was changed, or is of another kind.
        UserValueError: It needs to be trusted.
        MissingLibraryError: A package for this format is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"there is no {path}; expected a checkpoint or what segdcn export wrote")
    if path.is_file() and path.suffix == ".onnx":
        return onnx.read_onnx(path)
    if path.is_file() and path.suffix == ".pt2":
        return program.read_program(path, trust)
    return predictor(read_trained(path))


def predictor(trained: Trained) -> Predictor:
    """Give a predictor that runs the network where its weights are."""
    network = trained.network
    # As in training; another order of the pixels in memory rounds differently.
    last = trained.description.config.get("channels_last", True)
    memory_format = torch.channels_last if last else torch.contiguous_format

    def run(image: Tensor) -> Tensor:
        image = image.to(next(network.parameters()).device)
        with torch.no_grad():
            return network(image.contiguous(memory_format=memory_format))

    return Predictor(run, trained.description, network)
