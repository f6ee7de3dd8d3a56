"""Find and load the operator libraries that cuda/build.py makes.

Importing segdcn works without them; calling an operator then says how to build them.
SEGDCN_LIBRARIES names another folder to load them from.
"""

import os
from pathlib import Path

import torch

from segdcn.errors import MissingLibraryError

FOLDER = Path(os.environ.get("SEGDCN_LIBRARIES") or Path(__file__).resolve().parent.parent / "_lib")
BUILD_COMMAND = "scripts/setup (or: pip install --no-build-isolation -e .)"


def _load(name: str) -> str | None:
    """Load one library; return what went wrong, in one line, or None."""
    path = FOLDER / name
    if not path.is_file():
        return f"{path} does not exist"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        reason = str(error.__cause__ or error).splitlines()[0]  # torch says no more than that it failed
        return f"{path} does not load: {reason}"
    return None


cpu_problem = _load("segdcn_cpu.so")
cuda_problem: str | None = "this torch has no CUDA"
if torch.version.cuda is not None:
    cuda_problem = cpu_problem or _load("segdcn_cuda.so")


def require(device: torch.device) -> None:
    """Raise, with the cure, unless the library for `device` is loaded.

    Raises:
        MissingLibraryError: The library is missing or does not load; an ImportError.
        ValueError: segdcn has no operators for this kind of device.
    """
    if cpu_problem is not None:
        raise MissingLibraryError(f"segdcn's operators are not built: {cpu_problem}. Build them with {BUILD_COMMAND}")
    if device.type == "cuda" and cuda_problem is not None:
        raise MissingLibraryError(
            f"this segdcn is CPU-only, its CUDA operators are not available: {cuda_problem}. Build them on a machine "
            f"with nvcc with {BUILD_COMMAND}, or work on the CPU (--trainer.accelerator cpu)"
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"input is on {device}, but segdcn's operators run on cpu and cuda")
