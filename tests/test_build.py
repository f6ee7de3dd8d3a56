"""cuda/build.py: what is built where."""

import importlib.util
from pathlib import Path

import pytest

from segdcn.ops import library

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("segdcn_build", ROOT / "cuda" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


@pytest.fixture
def torch_folder(tmp_path) -> Path:
    """A torch with CUDA and nothing else."""
    folder = tmp_path / "torch"
    folder.mkdir()
    (folder / "version.py").write_text("from typing import Optional\ncuda: Optional[str] = '13.0'\n")
    return folder


@pytest.fixture
def toolkit(tmp_path, monkeypatch) -> Path:
    """A CUDA toolkit with a cuBLAS, as far as files go."""
    folder = tmp_path / "cuda"
    for name in ("bin/nvcc", "lib64/libcudart.so", "include/cublas_v2.h"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    monkeypatch.setenv("CUDA_HOME", str(folder))
    monkeypatch.delenv("SEGDCN_CPU_ONLY", raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    return folder


def test_the_cuda_library_is_compiled_for_three_generations_and_those_to_come(torch_folder, toolkit):
    command = build.cuda_library(torch_folder).compilers[".cu"]
    assert command[0] == str(toolkit / "bin" / "nvcc")
    assert [flag for flag in command if flag.startswith("-gencode")] == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]


def test_other_gpus_can_be_named(torch_folder, toolkit, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5 9.0a+PTX")
    command = build.cuda_library(torch_folder).compilers[".cu"]
    assert [flag.rpartition("=")[2] for flag in command if flag.startswith("-gencode")] == [
        "sm_75",
        "sm_90a",
        "compute_90a",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(SystemExit, match="'Hopper', but must list versions"):
        build.cuda_library(torch_folder)


def test_what_is_missing_for_the_cuda_library_is_said(torch_folder, toolkit, monkeypatch, capsys):
    def reason() -> str:
        assert build.cuda_library(torch_folder) is None
        return capsys.readouterr().out

    (toolkit / "include" / "cublas_v2.h").unlink()
    assert "cublas_v2.h is neither in" in reason()
    monkeypatch.setenv("SEGDCN_CPU_ONLY", "1")
    assert "SEGDCN_CPU_ONLY is set" in reason()
    monkeypatch.delenv("SEGDCN_CPU_ONLY")
    (torch_folder / "version.py").write_text("cuda: Optional[str] = None\n")
    assert "this torch has no CUDA" in reason()


def test_it_is_built_and_loads_where_there_is_a_toolkit():
    """A missing symbol would show here; whether it computes, only on a GPU."""
    if build.cuda_library(build.torch_folder()) is None:
        pytest.skip("needs a CUDA toolkit")
    assert library.cuda_problem is None
