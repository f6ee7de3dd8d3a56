"""The GPU's kernels without a GPU: their bodies run on the CPU, one index after the other.

A library in which they take the place of the CPU's loops (cuda/deform_conv_emulated.cpp) is
built, and the operator's own tests are run with it. Left to a GPU are races, the set-up of launches
and cuBLAS.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The tests of what an operator computes; not of the CPU's instruction sets, threads and memory.
CPU_ONLY = (
    "instruction_set or choice or leak or memory or threads or extension or 32_bits or every_sample or transforms"
)
SUITES = [
    *("deform_conv_values", "deform_conv_torch", "deform_conv_limits", "deform_conv_derivatives", "deform_conv_3d"),
    *("roi_pool_values", "roi_pool_torch", "roi_pool_limits"),
]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> dict[str, str]:
    """Build the library; return the environment in which segdcn loads it."""
    folder = tmp_path_factory.mktemp("emulated")
    command = [sys.executable, ROOT / "cuda" / "build.py", "--emulated", "--output", folder]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return {**os.environ, "SEGDCN_LIBRARIES": str(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'ops'}"}


def run(environment: dict[str, str], *arguments: str) -> str:
    """Run Python; return what it printed."""
    result = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-5000:]
    return result.stdout


def test_the_library_is_the_emulated_one(emulated):
    code = "import torch, segdcn.ops; print(torch.ops.segdcn.cpu_capability())"
    assert run(emulated, "-c", code).strip() == "emulated kernels"


@pytest.mark.parametrize("suite", SUITES)
def test_the_operators_tests_pass(emulated, suite):
    """Values, borders, NaN, layouts, dtypes, gradcheck, opcheck, autocast, compile."""
    marks = ["-m", "not slow and not cuda", "-k", f"not ({CPU_ONLY})"]
    file = f"tests/ops/test_{suite}.py"
    assert " passed" in run(emulated, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marks, file)


FUZZ = """
import sys, torch
from fuzz import run
torch.use_deterministic_algorithms(sys.argv[1] == "deterministic")
report = run(0, range(180))
assert not report.failures, report.failures
print("checked", sum(len(cell.forward.every) for cell in report.cells.values()))
"""


@pytest.mark.parametrize("mode", ["atomics", "deterministic"])
def test_random_geometries(emulated, mode):
    assert run(emulated, "-c", FUZZ, mode).strip() == "checked 180"


BITS = """
import hashlib, sys, torch
from geometry import Geometry, random_tensors
from regions import draw
from segdcn import ops
torch.use_deterministic_algorithms(sys.argv[1] == "deterministic")
flat = Geometry(2, 24, 9, 8, 6, (3, 3), (1, 1), (1, 1), (1, 1), 2, 3)
deep = Geometry(2, 24, 5, 4, 6, (2, 3, 3), (1, 1, 1), (0, 1, 1), (1, 1, 1), 2, 3, depth=4)
results = []
for geometry, operator in ((flat, ops.deform_conv2d), (deep, ops.deform_conv3d)):
    output, gradients = random_tensors(geometry, dtype=torch.float32).gradients(operator, geometry)
    results += [output, *gradients]
for name in ("deform_roi_pool", "deform_psroi_pool"):
    results += draw(name, 2, batch=1, count=23, moves=True, samples=2).map(lambda t: t.float()).gradients()
print(*[hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for t in results])
"""


def bits(environment: dict[str, str], mode: str) -> tuple[list[str], list[str]]:
    """Hash results and their gradients, computed in two orders."""
    other = {**environment, "SEGDCN_EMULATED_ORDER": "reversed"}
    first, second = (run(where, "-c", BITS, mode).split() for where in (environment, other))
    return first, second


def test_under_deterministic_algorithms_the_order_of_threads_does_not_matter(emulated):
    first, second = bits(emulated, "deterministic")
    assert first == second


def test_otherwise_it_matters_to_the_inputs_gradients_alone(emulated):
    """Which also shows that the test above could fail."""
    first, second = bits(emulated, "atomics")
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert same == 2 * [True, False, True, True, True, True] + 2 * [True, False, True]
