"""What all tests share: where the reference data lies, and which skips are allowed."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from segdcn.ops import library, precision

ROOT = Path(__file__).resolve().parent.parent

# cuBLAS wants it for torch.use_deterministic_algorithms, before it is first used.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# glibc comes to keep larger and larger blocks, the more a process has freed: then what a test measures depends on
# the tests before it, and the process grows. So blocks of 1 MiB and more go back to the system at once.
with suppress(AttributeError, OSError):  # another C library has other habits
    ctypes.CDLL(None).mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD of malloc.h

# A shell starts background jobs with Ctrl-C ignored, and so what they start; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# In continuous integration every other skip is a failure: a test that silently stopped
# running looks like one that passes.
ALLOWED_SKIPS = ("needs an NVIDIA GPU",)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real samples and reference vectors (SEGDCN_TEST_DATA)."""
    folder = Path(os.environ.get("SEGDCN_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set SEGDCN_TEST_DATA")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run a test on the CPU and, where there is one, on the GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    if request.param == "cuda" and library.cuda_problem is not None:
        pytest.skip("needs an NVIDIA GPU and the CUDA library")
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def without_tf32(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep float32 convolutions exact on a GPU, where torch rounds to TF32 unless told not to."""
    if "cuda" not in request.keywords or not torch.cuda.is_available():
        yield
        return
    with precision.exact_float32():
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """What fit would save of a small network whose offsets are not zero."""
    from segdcn.task import SegmentationTask  # imported here: tests of the operators alone have torch only

    torch.manual_seed(0)
    task = SegmentationTask(
        num_classes=3,
        class_names=["sky", "road", "car"],
        palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        mean=[0.5, 0.4, 0.3],
        std=[0.2, 0.2, 0.25],
        architecture="deeplab",
        encoder="resnet18",
        deform_layers=2,
    )
    for name, parameter in task.network.named_parameters():
        if "offset_conv" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    saved = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
    task.on_save_checkpoint(saved)
    path = tmp_path_factory.mktemp("trained") / "best.ckpt"
    torch.save(saved, path)
    return path


_unexpected: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the skips that are not allowed."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS):
            _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where CI is set and a test was skipped that should run."""
    if _unexpected and os.environ.get("CI"):
        print("\nskipped, although CI must run them:", *_unexpected, sep="\n  ")
        session.exitstatus = 1
