"""What is said where an operator library is missing, broken or of no use; no GPU is needed."""

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from geometry import AWKWARD, random_tensors
from torch._subclasses.fake_tensor import FakeTensorMode

from segdcn.errors import MissingLibraryError
from segdcn.ops import deform_conv2d, library

CUDA = torch.device("cuda")


def installed(folder: Path) -> dict[str, Any]:
    """Run library.py as if segdcn were installed in `folder` without nvcc; return what it defines.

    The CPU library is a link, which torch resolves to the file that is loaded already.
    """
    target = folder / "segdcn" / "ops" / "library.py"
    target.parent.mkdir(parents=True)
    shutil.copy(library.__file__, target)
    libraries = folder / "segdcn" / "_lib"
    libraries.mkdir(exist_ok=True)
    (libraries / "segdcn_cpu.so").symlink_to(library.FOLDER / "segdcn_cpu.so")
    return runpy.run_path(str(target))


def test_a_build_without_nvcc_works_on_the_cpu_and_names_the_cure_on_cuda(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    parts = installed(tmp_path)
    parts["require"](torch.device("cpu"))
    with pytest.raises(MissingLibraryError) as caught:
        parts["require"](CUDA)
    message = str(caught.value)
    assert "CUDA operators are not available" in message and f"{tmp_path}/segdcn/_lib/segdcn_cuda.so" in message
    assert "nvcc" in message and library.BUILD_COMMAND in message and "--trainer.accelerator cpu" in message
    assert "\n" not in message


def test_a_library_that_does_not_load_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    broken = tmp_path / "segdcn" / "_lib" / "segdcn_cuda.so"
    broken.parent.mkdir(parents=True)
    broken.write_text("not a library")
    with pytest.raises(MissingLibraryError, match="segdcn_cuda.so does not load: ") as caught:
        installed(tmp_path)["require"](CUDA)
    assert "\n" not in str(caught.value)


def test_a_torch_without_cuda_is_named_as_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MissingLibraryError, match="this torch has no CUDA"):
        installed(tmp_path)["require"](CUDA)


def test_the_operator_refuses_a_cuda_tensor_without_the_cuda_library(monkeypatch):
    """A fake tensor says it is on CUDA where there is no GPU."""
    monkeypatch.setattr(library, "cuda_problem", "segdcn_cuda.so does not exist")
    with FakeTensorMode(), pytest.raises(MissingLibraryError, match="CUDA operators are not available"):
        random_tensors(AWKWARD, dtype=torch.float32).map(
            lambda t: torch.empty(t.shape, device=CUDA)  # .to() would ask for a driver
        ).call(deform_conv2d, AWKWARD)


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_devices_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"input is on {kind}, but segdcn's operators run on cpu and cuda"):
        library.require(torch.device(kind))
