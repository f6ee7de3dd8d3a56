"""`segdcn doctor`: is this installation whole, and what cures it where it is not."""

import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

import segdcn
from segdcn.verbs.report_file import check_report_file, write_report

if TYPE_CHECKING:
    from packaging.requirements import Requirement


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


# What is broken has to become a line of the report, so importing it must not stop us.
torch_problem = ops_problem = None
try:
    import torch

    from segdcn.timing import machine
except Exception as error:
    torch_problem = _one_line(error)
try:
    from segdcn import ops
    from segdcn.ops import library, reference, roi_reference
    from segdcn.ops.precision import exact_float32
except Exception as error:
    ops_problem = _one_line(error)

# Looked for even where segdcn is run without being installed, and nothing says what it needs.
PACKAGES = ("torch", "pytorch-lightning", "segmentation-models-pytorch", "albumentations", "wandb", "numpy")
# Of |got - expected| / |expected|: a few roundings of each dtype.
LIMITS = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


# Environment variables that choose among what the CPU library has; cuda/README.md describes them.
CHOICES = {"SEGDCN_CPU": ("baseline", "avx2", "avx512"), "SEGDCN_CPU_PATH": ("direct", "columns")}


@dataclass(frozen=True)
class Finding:
    """One line of the report; a note is worth knowing and needs no cure."""

    name: str
    text: str
    status: Literal["ok", "note", "problem"] = "ok"
    cure: str = ""  # the command that removes a problem
    figures: dict[str, float | None] = field(default_factory=dict)  # behind the text; None: not finite


def doctor(json: str | None = None) -> int:
    """Check this installation, and say for each problem what cures it.

    Shows versions, compilers, devices and the operator libraries that are loaded, and compares
    every operator in every dtype with the reference. The exit code is 1 if there is a problem.

    Example:
        segdcn doctor --json doctor.json

    Args:
        json: Also write the report to this file.

    Raises:
        UserValueError: The file cannot be written there.
    """
    if json is not None:
        check_report_file(json)
    console = Console(highlight=False)
    report: dict[str, list[Finding]] = {}
    for title, (section, explanation) in SECTIONS.items():
        if torch_problem is not None and title not in ("versions", "compilers"):
            continue  # the others ask torch
        # Before its findings: if an operator crashes the process, this line says where.
        _say(console, (title, "bold"), explanation)
        report[title] = list(_findings(section))
        width = max(len(finding.name) for finding in report[title])
        for finding in report[title]:
            status = (f"  {finding.status:<7}", STYLES[finding.status])
            _say(console, status, f"  {finding.name:<{width}}  {finding.text}")
    problems = [finding for findings in report.values() for finding in findings if finding.status == "problem"]
    _say(console, (f"problems: {len(problems)}", "bold red") if problems else ("no problems", "bold green"))
    for cure, cured in groupby(problems, key=lambda finding: finding.cure):
        for finding in cured:
            _say(console, f"  {finding.name}: {finding.text}")
        _say(console, ("    cure: ", "bold"), cure)
    if json is not None:
        sections = {title: [asdict(finding) for finding in findings] for title, findings in report.items()}
        whole = {"ok": not problems, "sections": sections}
        write_report(json, whole)
    return 1 if problems else 0


def _say(console: Console, *parts: str | tuple[str, str]) -> None:
    """Print one line that is never broken, so that commands can be copied, in what the terminal can show."""
    text = Text.assemble(*parts)
    text.plain = text.plain.encode(console.encoding, "replace").decode(console.encoding)
    console.print(text, soft_wrap=True)


def _findings(section: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Run a section; an exception is a finding too."""
    try:
        yield from section()
    except Exception as error:
        yield Finding("check", _one_line(error), "problem", _rebuild())


def _build_command() -> str:
    if os.environ.get("SEGDCN_LIBRARIES"):
        return "unset SEGDCN_LIBRARIES (the libraries are taken from that folder, and builds do not go there)"
    checkout = Path(segdcn.__file__).resolve().parents[1]
    if not (checkout / "cuda" / "build.py").is_file():
        return shlex.join([sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "segdcn"])
    # It is there even where importing segdcn.ops failed later on.
    loaded = sys.modules.get("segdcn.ops.library")
    return f"cd {shlex.quote(str(checkout))}; {loaded.BUILD_COMMAND if loaded else 'scripts/setup'}"


def _rebuild() -> str:
    """Say how to build anew; with the old library in its place the build finds nothing to do."""
    if os.environ.get("SEGDCN_LIBRARIES"):
        return _build_command()
    old = shlex.quote(str(Path(segdcn.__file__).resolve().parent / "_lib"))
    report = "if it stays, report it with the file of: segdcn doctor --json doctor.json"
    return f"rm -rf {old}; {_build_command()}; {report}"


def _versions() -> Iterator[Finding]:
    yield Finding("segdcn", f"{segdcn.__version__} in {Path(segdcn.__file__).parent}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("platform", platform.platform())
    required = _requirements()
    for name in dict.fromkeys([*PACKAGES, *required]):
        yield _package(name, required.get(name))
    if not required:
        yield Finding("lower bounds", "not checked: segdcn is not installed", "note")


def _requirements() -> "dict[str, Requirement]":
    """Return what the installed segdcn needs, without extras; nothing where it is not installed."""
    try:
        from packaging.requirements import Requirement

        found = [Requirement(line) for line in metadata.requires("segdcn") or []]
    except (ImportError, metadata.PackageNotFoundError):
        return {}
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def _package(name: str, required: "Requirement | None") -> Finding:
    wanted = name if required is None else f"{name}{required.specifier}"
    # With this Python: `pip` alone is often another environment's.
    cure = shlex.join([sys.executable, "-m", "pip", "install", "--upgrade", wanted])
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name, "is not installed", "problem", cure)
    if required is not None and not required.specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}, but segdcn needs {required.specifier}", "problem", cure)
    if name != "torch":
        return Finding(name, version)
    if torch_problem is not None:
        return Finding(name, f"{version} does not import: {torch_problem}", "problem", f"{cure} --force-reinstall")
    return Finding(name, f"{torch.__version__}, CUDA {torch.version.cuda or 'not in it'}")


def _compilers() -> Iterator[Finding]:
    answer, problem = _compiler()
    if not problem:
        yield Finding("C++", answer)
    elif ops_problem is None and library.cpu_problem is None:
        yield Finding("C++", f"{problem}; only building needs it", "note")
    else:
        cure = "unset CXX (or set it to your compiler: export CXX=g++)" if "CXX" in os.environ else "apt install g++"
        yield Finding("C++", f"{problem}; building the operators needs it", "problem", cure)
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if nvcc is not None:
        yield Finding("nvcc", f"{_answer([nvcc, '--version'], 'release')}, {nvcc}")
    else:
        where = f"{home}/bin (CUDA_HOME)" if home else "PATH"
        yield Finding("nvcc", f"not found in {where}; only building for GPUs needs it", "note")


def _compiler() -> tuple[str, str]:
    """Return what the C++ compiler says it is, and what keeps it from compiling, which is empty if nothing does."""
    given = os.environ.get("CXX", "")
    try:
        command = shlex.split(given) or ["g++"]
    except ValueError as error:
        return "", f"CXX is {given}, which is no command: {str(error).lower()}"
    if shutil.which(command[0]) is None:
        return "", f"{command[0]} not found"
    try:
        empty = [*command, "-x", "c++", "-fsyntax-only", os.devnull]
        done = subprocess.run(empty, capture_output=True, text=True, errors="replace", timeout=20)
        if done.returncode == 0:
            return _answer([*command, "--version"]), ""
        says = next(iter(done.stderr.splitlines()), f"exit code {done.returncode}")
    except (OSError, subprocess.TimeoutExpired) as error:
        says = _one_line(error)
    return "", f"{shlex.join(command)} does not compile C++: {says}"


def _answer(command: list[str], word: str = "") -> str:
    """Return the first line with `word` that a command prints, from there on."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line[line.index(word) :] for line in lines if word in line), f"{shlex.join(command)} says nothing")


def _devices() -> Iterator[Finding]:
    yield Finding("CPU", machine(torch.device("cpu")))
    if not torch.cuda.is_available():
        yield Finding("GPU", "this torch has no CUDA" if torch.version.cuda is None else "torch sees none", "note")
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield Finding(f"GPU {index}", f"{machine(torch.device('cuda', index))}, compute capability {major}.{minor}")


def _libraries() -> Iterator[Finding]:
    if ops_problem is not None:  # most likely the library is older than the Python that registers its operators
        yield Finding("segdcn.ops", f"does not import: {ops_problem}", "problem", _rebuild())
        return
    yield from _variables()
    for device, problem in {"cpu": library.cpu_problem, "cuda": library.cuda_problem}.items():
        path = library.FOLDER / f"segdcn_{device}.so"
        cure = _rebuild() if path.is_file() else _build_command()
        if problem is None:
            yield Finding(device, str(path))
        elif device == "cpu":
            yield Finding(device, problem, "problem", cure)
        elif torch.cuda.is_available():
            yield Finding(device, problem, "problem", f"on a machine with nvcc: {cure}")
        elif problem != library.cpu_problem:
            yield Finding(device, f"{problem}; not needed without a GPU", "note")
    if library.cpu_problem is None and not any(finding.status == "problem" for finding in _variables()):
        yield Finding("instruction set", torch.ops.segdcn.cpu_capability())


def _variables() -> Iterator[Finding]:
    """Tell which environment variables change what the libraries do, and which of them stop the operators."""
    if os.environ.get("SEGDCN_LIBRARIES"):
        yield Finding("SEGDCN_LIBRARIES", f"is set: the libraries come from {library.FOLDER}", "note")
    for name, choices in CHOICES.items():
        value, problem = os.environ.get(name), ""
        if not value:
            continue
        if value not in choices:
            problem = f"must be {', '.join(choices[:-1])} or {choices[-1]}"
        elif name == "SEGDCN_CPU" and library.cpu_problem is None:
            try:
                torch.ops.segdcn.cpu_capability()
            except RuntimeError:
                problem = "this processor and this build do not offer it"
        text = (
            f"is {' '.join(value.split())}, but {problem}"
            if problem
            else f"is {value}; meant for comparing and testing"
        )
        yield Finding(name, text, "problem" if problem else "note", f"unset {name}" if problem else "")


Case = tuple[dict[str, "torch.Tensor"], dict[str, Any]]


def _deform_conv(dims: int) -> Case:
    """Draw reads across every border, groups that overlap, and channels that fill registers and leave some."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> "torch.Tensor":
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    size, kernel, out_size = [(5, 7, 9)[-dims:], (2, 3, 2)[-dims:], (4, 3, 8)[-dims:]]
    fields = 3 * math.prod(kernel)  # three offset groups
    offset = (normal(2, dims * fields, *out_size) * 3).floor()
    # Away from whole pixels, where the slope jumps and rounding would choose the side.
    offset += torch.rand(offset.shape, generator=generator, dtype=torch.float64) * 0.6 + 0.2
    last = torch.channels_last if dims == 2 else torch.channels_last_3d
    tensors = {
        "input": normal(2, 72, *size).contiguous(memory_format=last),
        "offset": offset,
        "weight": normal(40, 36, *kernel),  # two groups
        "bias": normal(40),
        "mask": normal(2, fields, *out_size).sigmoid() * 2,
    }
    settings = {"stride": (1, 2, 1)[-dims:], "padding": (0, 1, 0)[-dims:], "dilation": (1, 2, 1)[-dims:]}
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}, settings


def _regions(channels: int, offsets: tuple[int, ...]) -> "dict[str, torch.Tensor]":
    """Draw regions within, across and beyond the border, in numbers that every dtype holds."""
    generator = torch.Generator().manual_seed(0)
    boxes = [[0, 1.25, 0.75, 12.5, 9.25], [1, 3.5, 2.25, 8.75, 7.5], [1, -4.25, 5.5, 3.25, 16.5], [0, 30, 30, 40, 44]]
    return {
        "input": torch.randn(2, channels, 11, 14, generator=generator, dtype=torch.float64).requires_grad_(),
        "rois": torch.tensor(boxes, dtype=torch.float64),
        # Small: where a sample leaves the map, its value jumps.
        "offset": (torch.randn(4, *offsets, generator=generator, dtype=torch.float64) * 0.1).requires_grad_(),
    }


def _deform_roi_pool() -> Case:
    settings = {"output_size": (3, 2), "spatial_scale": 0.75, "sampling_ratio": 2, "gamma": 0.5}
    return _regions(40, (2, 3, 2)), settings


def _deform_psroi_pool() -> Case:
    settings = {"output_dim": 10, "group_size": 2, "part_size": 2, "samples_per_part": 3, "spatial_scale": 0.75}
    return _regions(40, (4, 2, 2)), settings


# By the name that segdcn.ops and its reference share: what draws float64 tensors and settings.
# The gradient of every tensor that requires one is compared.
OPERATORS: dict[str, Callable[[], Case]] = {
    "deform_conv2d": lambda: _deform_conv(2),
    "deform_conv3d": lambda: _deform_conv(3),
    "deform_roi_pool": _deform_roi_pool,
    "deform_psroi_pool": _deform_psroi_pool,
}


def _self_test() -> Iterator[Finding]:
    if ops_problem is not None or library.cpu_problem is not None:
        yield Finding("not run", "the operators are not loaded", "note")
        return
    if wrong := [finding.name for finding in _variables() if finding.status == "problem"]:
        yield Finding("not run", f"{wrong[0]} stops the operators", "note")
        return
    for device in ["cpu", "cuda"] if library.cuda_problem is None and torch.cuda.is_available() else ["cpu"]:
        for operator in OPERATORS:
            for dtype in LIMITS:
                yield _compare(operator, dtype, device)


def _compare(operator: str, dtype: str, device: str) -> Finding:
    """Compare an operator with the reference in float64, on tensors that are first rounded to the dtype."""
    name, limit = f"{operator} {dtype} {device}", LIMITS[dtype]
    try:
        tensors, settings = OPERATORS[operator]()
        rounded = {key: tensor.to(getattr(torch, dtype)) for key, tensor in tensors.items()}
        exact = {key: tensor.double() for key, tensor in rounded.items()}
        given = {key: tensor.to(device) for key, tensor in rounded.items()}
        definition = getattr(roi_reference if "roi" in operator else reference, operator)
        expected = _outcome(definition, exact, settings)
        with exact_float32():
            got = _outcome(getattr(ops, operator), given, settings)
        errors = {key: _relative_error(got[key], value) for key, value in expected.items()}
    except Exception as error:
        return Finding(name, _one_line(error), "problem", _rebuild())
    figures = {key: error if math.isfinite(error) else None for key, error in errors.items()} | {"limit": limit}
    wrong = [f"{key} {error:.1e}" for key, error in errors.items() if not error <= limit]  # NaN is wrong too
    if wrong:
        return Finding(name, f"{', '.join(wrong)}; at most {limit:g}", "problem", _rebuild(), figures)
    result, *gradients = errors.values()
    return Finding(name, f"{result:.1e}, {max(gradients):.1e}; at most {limit:g}", figures=figures)


def _outcome(function: Callable[..., "torch.Tensor"], tensors: dict[str, "torch.Tensor"], settings: dict) -> dict:
    """Return the result, and the gradients of a weighted sum of it, on the CPU."""
    leaves = {key: tensor.detach().requires_grad_(tensor.requires_grad) for key, tensor in tensors.items()}
    result = function(**leaves, **settings)
    # Whole numbers: the same in every dtype.
    weights = torch.randint(-4, 5, result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    wanted = {f"gradient of {key}": leaf for key, leaf in leaves.items() if leaf.requires_grad}
    # The sum rather than `grad_outputs`, for which torch imports sympy: a second.
    gradients = torch.autograd.grad((result * weights).sum(), list(wanted.values()))
    return {"result": result.detach().cpu()} | {key: g.cpu() for key, g in zip(wanted, gradients, strict=True)}


def _relative_error(got: "torch.Tensor", expected: "torch.Tensor") -> float:
    if got.shape != expected.shape:
        raise ValueError(f"gave the shape {tuple(got.shape)} instead of {tuple(expected.shape)}")
    return float((got.double() - expected).norm() / expected.norm())


SECTIONS: dict[str, tuple[Callable[[], Iterator[Finding]], str]] = {
    "versions": (_versions, ""),
    "compilers": (_compilers, ""),
    "devices": (_devices, ""),
    "libraries": (_libraries, ""),
    "self-test": (_self_test, ": relative error of the result and of the worst gradient"),
}
