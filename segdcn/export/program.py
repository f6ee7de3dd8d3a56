"""torch.export programs and AOTInductor packages: `.pt2` files, which can hold code.

Both are zip archives. A description is put into them as one more member, with a hash of all others, so
that a file can be recognised, described and found damaged before anything in it is loaded.
"""

import copy
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

import segdcn.ops  # noqa: F401 (a program may call the operators)
from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingLibraryError, UserValueError
from segdcn.export.capture import capture, check_operators, smallest_side
from segdcn.export.portable import portable
from segdcn.ops.precision import exact_float32
from segdcn.predictor import Predictor

MEMBER = "extra/segdcn.json"  # below the archive's own folder


class ChannelsLast(nn.Module):
    """Runs a copy of a network in channels-last, as it was trained, with weights in the order that files have."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def forward(self, image: Tensor) -> Tensor:
        """Run the network."""
        return self.network(image.contiguous(memory_format=torch.channels_last))


def write_program(network: nn.Module, description: Description, path: Path, *, portable_form: bool) -> None:
    """Write a program that torch.export.load reads: with segdcn's operators, or with torch's alone."""
    network = portable(network) if portable_form else network
    program = capture(ChannelsLast(network), description.size_divisor)
    if portable_form:
        check_operators(program, set(), "program-portable")
    torch.export.save(program, path)
    _describe(path, "program", program, description)


def write_package(network: nn.Module, description: Description, path: Path) -> None:
    """Compile the network for this kind of machine; segdcn's operators are called, not compiled in.

    On a GPU, deformable convolutions stay exact in float32: whether they may round to TF32 is decided here, since
    it is a constant of the graph. Torch's own decide it when the package is run.

    Raises:
        MissingLibraryError: There is no C++ compiler.
        UserValueError: The package is for a GPU and there is none.
    """
    # Imported here: a second that opening other files need not take.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise MissingLibraryError("aoti needs a C++ compiler: install g++, or name one in CXX") from error
    if description.device == "cuda" and not torch.cuda.is_available():
        raise UserValueError("device is cuda, but torch sees no GPU here; compile on the kind of machine it is for")
    network = ChannelsLast(network).to(description.device)
    with exact_float32():
        program = capture(network, description.size_divisor, description.device)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    _describe(path, "aoti", program, description)


def read_program(path: Path, trust: bool) -> Predictor:
    """Open either kind of file; nothing in it is run or loaded before it is trusted and found intact.

    Raises:
        UserValueError: It is not trusted, or is for another machine.
        InvalidDataError: It is damaged, changed, or not from segdcn.
    """
    if not trust:
        raise UserValueError(
            f"{path} can hold code, which loading it would run; if it comes from someone you trust, say --trust, or "
            "segdcn.load(path, trust=True)"
        )
    kind, description = _description(path)
    if kind == "program":
        module: Any = torch.export.load(path).module()
    elif description.device == "cuda" and not torch.cuda.is_available():
        raise UserValueError(f"{path} was compiled for a GPU, and torch sees none here")
    else:
        module = torch._inductor.aoti_load_package(str(path))

    def run(image: Tensor) -> Tensor:
        with torch.no_grad():
            return module(image.contiguous().to(description.device))

    return Predictor(run, description)


def _describe(path: Path, kind: str, program: ExportedProgram, description: Description) -> None:
    """Put the description and the hash of all else into a finished archive."""
    divisor = description.size_divisor
    minimum = -(-smallest_side(program) // divisor) * divisor
    with zipfile.ZipFile(path, "a") as archive:
        texts = {**description.texts(), "kind": kind, "content_sha256": _content_hash(archive)}
        texts["size_minimum"] = json.dumps(minimum)
        archive.writestr(f"{_root(archive)}/{MEMBER}", json.dumps(texts, indent=2))


def _description(path: Path) -> tuple[str, Description]:
    try:
        with zipfile.ZipFile(path) as archive:
            texts = json.loads(archive.read(f"{_root(archive)}/{MEMBER}"))
            intact = texts.get("content_sha256") == _content_hash(archive)
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError, OSError, IndexError) as error:
        raise InvalidDataError(f"{path} is damaged, or not a program that segdcn export wrote") from error
    description = Description.from_texts(texts, path)
    if not intact or texts.get("kind") not in ("program", "aoti"):
        raise InvalidDataError(
            f"{path} is not as it was written: it was changed, or is damaged; take an untouched copy"
        )
    return texts["kind"], description


def _root(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


def _content_hash(archive: zipfile.ZipFile) -> str:
    hashed = hashlib.sha256()
    for name in sorted(archive.namelist()):
        if name != f"{_root(archive)}/{MEMBER}":
            hashed.update(f"{name} {hashlib.sha256(archive.read(name)).hexdigest()}\n".encode())
    return hashed.hexdigest()
