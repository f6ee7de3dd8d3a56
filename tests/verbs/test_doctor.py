"""A healthy installation passes; every kind of broken one gets its own line, its cure and exit code 1."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
import torch
from rich.console import Console

import segdcn.ops
from segdcn import cli
from segdcn.ops import library
from segdcn.verbs import doctor

DTYPES = ["float64", "float32", "float16", "bfloat16"]
PACKAGE = Path(segdcn.__file__).parent


@pytest.fixture
def examine(capsys, tmp_path):
    """Run the verb; gives exit code, printed text and the findings of the JSON file by (section, name)."""

    def call():
        file = tmp_path / "doctor.json"
        code = cli.main(["doctor", "--json", str(file)])
        sections = json.loads(file.read_text(), parse_constant=pytest.fail)["sections"]  # NaN is no JSON
        found = {(title, finding["name"]): finding for title, section in sections.items() for finding in section}
        return code, capsys.readouterr().out, found

    return call


def test_a_healthy_installation_has_no_problems(examine):
    code, text, found = examine()
    assert code == 0 and text.splitlines()[-1] == "no problems"
    assert text.isascii()
    assert not [finding for finding in found.values() if finding["status"] == "problem"]
    assert metadata.version("numpy") in found["versions", "numpy"]["text"]
    assert found["libraries", "instruction set"]["text"] == torch.ops.segdcn.cpu_capability()
    for operator, dtype in product(("deform_conv2d", "deform_conv3d"), DTYPES):
        assert f"{operator} {dtype} cpu" in text
        finding = found["self-test", f"{operator} {dtype} cpu"]
        figures = finding["figures"]
        gradients = {f"gradient of {name}" for name in ("input", "offset", "weight", "bias", "mask")}
        assert set(figures) == {"result", "limit"} | gradients
        assert f"{figures['result']:.1e}, {max(figures[name] for name in gradients):.1e};" in finding["text"]


def test_every_operator_has_a_self_test():
    assert set(doctor.OPERATORS) == {name for name in segdcn.ops.__all__ if name.islower()}  # modules are not


@pytest.mark.parametrize("dims", [2, 3])
def test_the_self_test_reads_across_every_border(dims):
    """Rows p*2 - 1 + k*2 of 7, columns p + k of 9, planes p + k of 5: on each side some reads lie outside."""
    tensors, settings = doctor._deform_conv(dims)
    stride, padding, dilation = settings.values()
    assert (stride[-2:], padding[-2:], dilation[-2:]) == ((2, 1), (1, 0), (2, 1))
    kernel, size = tensors["weight"].shape[2:], tensors["input"].shape[2:]
    offset = tensors["offset"].detach().unflatten(1, (3, *kernel, dims))  # (B, G, *kernel, dims, *out size)
    inside = torch.tensor(True)
    for d in range(dims):
        moved = offset.select(2 + dims, d)  # (B, G, *kernel, *out size)
        tap, pixel = torch.arange(float(kernel[d])), torch.arange(float(moved.shape[2 + dims + d]))
        tap = tap.view(-1, *[1] * (2 * dims - 1 - d))
        at = moved + pixel.view(-1, *[1] * (dims - 1 - d)) * stride[d] - padding[d] + tap * dilation[d]
        assert (at < -1).any() and (at > size[d]).any()
        inside = inside & (at > 0) & (at < size[d] - 1)
    assert inside.float().mean() > (0.4 if dims == 2 else 0.15)


# Wrong operators. Each is off by a little more than the limit allows, in one thing only.


def wrong_result(*args, **kwargs):
    result = RIGHT(*args, **kwargs)
    return result + (result * SLIP[result.dtype]).detach()


def wrong_gradient(*args, **kwargs):
    slip = SLIP[kwargs["input"].dtype]
    kwargs["mask"] = kwargs["mask"].clone()
    kwargs["mask"].register_hook(lambda grad: grad * (1 + slip))
    return RIGHT(*args, **kwargs)


def wrong_shape(*args, **kwargs):
    return RIGHT(*args, **kwargs)[:, :, :1]


def not_finite(*args, **kwargs):
    return RIGHT(*args, **kwargs) * float("nan")


def raising(*args, **kwargs):
    raise RuntimeError("no kernel image\nfor this device")


RIGHT = segdcn.ops.deform_conv2d
SLIP = {torch.float64: 1.5e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        (wrong_result, r"result \d\.\de-\d\d; at most"),
        (wrong_gradient, r"gradient of mask \d\.\de-\d\d; at most"),
        (wrong_shape, r"ValueError: gave the shape \(2, 40, 1, 8\) instead of \(2, 40, 3, 8\)"),
        (not_finite, "result nan, gradient of input nan, .*; at most"),
        (raising, "RuntimeError: no kernel image"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_wrong_operator_is_caught_in_every_dtype(examine, monkeypatch, operator, says):
    monkeypatch.setattr(segdcn.ops, "deform_conv2d", operator)
    code, text, found = examine()
    assert code == 1
    for dtype in DTYPES:
        finding = found["self-test", f"deform_conv2d {dtype} cpu"]
        assert finding["status"] == "problem" and re.match(says, finding["text"])
        assert library.BUILD_COMMAND in finding["cure"] and "segdcn doctor --json" in finding["cure"]
    assert text.count(library.BUILD_COMMAND) == 1  # one cure for the four of them


def test_a_missing_library_gives_the_build_command(examine, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "cpu_problem", "segdcn_cpu.so does not exist")
    monkeypatch.setattr(library, "cuda_problem", "segdcn_cpu.so does not exist")
    code, text, found = examine()
    assert code == 1
    assert f"    cure: cd {PACKAGE.parent}; {library.BUILD_COMMAND}\n" in text
    assert ("self-test", "not run") in found


def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))


def test_a_missing_cuda_library_is_a_problem_only_where_there_is_a_gpu(examine, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "cuda_problem", "segdcn_cuda.so does not exist")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, found = examine()
    assert code == 0 and found["libraries", "cuda"]["status"] == "note"
    assert found["devices", "GPU"]["status"] == "note"
    gpu(monkeypatch)
    code, _, found = examine()
    assert code == 1 and library.BUILD_COMMAND in found["libraries", "cuda"]["cure"]
    assert found["devices", "GPU 0"]["text"] == "NVIDIA H100, compute capability 9.0"


def test_old_and_missing_packages_are_cured_by_pip(examine, monkeypatch):
    lines = ["numpy<100,>=99", "torch>=2.11", "surely-not-there>=1.5", 'not-asked-for>=1; extra == "test"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    code, text, found = examine()
    assert code == 1
    pip = f"{sys.executable} -m pip install --upgrade"
    assert found["versions", "numpy"]["cure"] == f"{pip} 'numpy<100,>=99'"
    assert found["versions", "surely-not-there"]["cure"] == f"{pip} 'surely-not-there>=1.5'"
    assert f"cure: {pip} 'numpy<100,>=99'" in text
    assert found["versions", "torch"]["status"] == "ok" and "not-asked-for" not in text


def test_without_metadata_presence_is_still_checked(examine, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    version = metadata.version
    monkeypatch.setattr(metadata, "requires", absent)
    monkeypatch.setattr(metadata, "version", lambda name: absent(name) if name == "wandb" else version(name))
    code, _, found = examine()
    assert code == 1 and found["versions", "lower bounds"]["status"] == "note"
    assert found["versions", "wandb"]["text"] == "is not installed"
    assert found["versions", "wandb"]["cure"].endswith("pip install --upgrade wandb")


def test_a_compiler_is_needed_only_without_libraries(examine, monkeypatch):
    monkeypatch.setenv("CXX", "surely-not-there -O2")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    code, _, found = examine()
    assert code == 0 and found["compilers", "C++"]["status"] == found["compilers", "nvcc"]["status"] == "note"
    monkeypatch.setattr(library, "cpu_problem", "segdcn_cpu.so does not exist")
    code, _, found = examine()
    assert "g++" in found["compilers", "C++"]["cure"] and found["compilers", "nvcc"]["status"] == "note"


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("surely-not-there", "surely-not-there not found"),
        ('"x', 'CXX is "x, which is no command: no closing quotation'),
        ("/bin/false", "/bin/false does not compile C++: exit code 1"),
    ],
)
def test_a_compiler_that_cannot_compile_is_told_from_the_operators(examine, monkeypatch, compiler, says):
    monkeypatch.setenv("CXX", compiler)
    code, _, found = examine()
    assert code == 0 and found["compilers", "C++"]["text"] == f"{says}; only building needs it"
    monkeypatch.setattr(library, "cpu_problem", "segdcn_cpu.so does not exist")
    code, _, found = examine()
    assert code == 1 and found["compilers", "C++"]["text"] == f"{says}; building the operators needs it"
    assert found["compilers", "C++"]["cure"].startswith("unset CXX")


@pytest.mark.parametrize("name", ["SEGDCN_CPU", "SEGDCN_CPU_PATH"])
def test_a_variable_that_stops_the_operators_is_to_be_unset(name):
    command = [sys.executable, "-m", "segdcn", "doctor"]
    done = subprocess.run(command, env=os.environ | {name: "foo\nbar"}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    assert f"problems: 1\n  {name}: is foo bar, but must be " in done.stdout
    assert done.stdout.endswith(f"    cure: unset {name}\n")
    assert ".cpp" not in done.stdout and f"not run  {name} stops the operators" in done.stdout


def test_a_variable_that_chooses_what_is_there_is_a_note(examine, monkeypatch):
    monkeypatch.setenv("SEGDCN_CPU_PATH", "columns")
    code, _, found = examine()
    assert code == 0 and found["libraries", "SEGDCN_CPU_PATH"]["status"] == "note"
    assert found["self-test", "deform_conv2d float32 cpu"]["status"] == "ok"


def test_an_empty_folder_of_libraries_is_to_be_unset(tmp_path):
    command = [sys.executable, "-m", "segdcn", "doctor"]
    environment = os.environ | {"SEGDCN_LIBRARIES": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and f"is set: the libraries come from {tmp_path}" in done.stdout
    assert "cure: unset SEGDCN_LIBRARIES" in done.stdout and "rm -rf" not in done.stdout


def test_a_check_that_fails_itself_is_a_problem_and_the_others_go_on(examine, monkeypatch):
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: 1 / 0)
    code, _, found = examine()
    assert code == 1 and "ZeroDivisionError" in found["compilers", "check"]["text"]
    assert found["self-test", "deform_conv2d float32 cpu"]["status"] == "ok"


@pytest.mark.parametrize("place", [".", "nowhere/x.json"])
def test_a_file_that_cannot_be_written_is_refused_at_once(place, capsys):
    assert cli.main(["doctor", "--json", place]) == cli.EXIT_USER_ERROR
    done = capsys.readouterr()
    assert done.out == "" and f"json is {place}, but must be a file" in done.err


# Truly broken installations, each a copy of the package run on its own.


def no_library(folder):
    return "segdcn_cpu.so does not exist", "scripts/setup"


def library_that_does_not_load(folder):
    (folder / "segdcn/_lib").mkdir()
    (folder / "segdcn/_lib/segdcn_cpu.so").write_text("not a library")
    return "segdcn_cpu.so does not load", f"rm -rf {folder}/segdcn/_lib; cd {folder}; scripts/setup"


def library_without_operators(folder):
    """As an old one looks to newer Python: it loads, and what is to be registered is not in it."""
    (folder / "segdcn/_lib").mkdir()
    compiler = os.environ.get("CXX", "g++").split()
    target = folder / "segdcn/_lib/segdcn_cpu.so"
    subprocess.run([*compiler, "-shared", "-x", "c++", "/dev/null", "-o", target], check=True)
    return "segdcn.ops: does not import", f"rm -rf {folder}/segdcn/_lib; cd {folder}; scripts/setup"


def torch_that_does_not_import(folder):
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    return "does not import: ImportError: libcudart.so.13", "pip install --upgrade"


def wheel(folder):
    """Nothing to build from, so the package has to come again."""
    (folder / "cuda/build.py").unlink()
    return "segdcn_cpu.so does not exist", "pip install --force-reinstall --no-deps segdcn"


@pytest.mark.parametrize(
    "break_", [no_library, library_that_does_not_load, library_without_operators, torch_that_does_not_import, wheel]
)
def test_a_broken_installation_is_diagnosed_without_a_traceback(break_, tmp_path):
    folder = tmp_path
    shutil.copytree(PACKAGE, folder / "segdcn", ignore=shutil.ignore_patterns("_lib", "__pycache__"))
    (folder / "cuda").mkdir()
    (folder / "cuda/build.py").touch()
    problem, cure = break_(folder)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "segdcn", "doctor"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert problem in done.stdout and cure in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_what_the_output_cannot_show_does_not_stop_it():
    written = io.BytesIO()
    console = Console(file=io.TextIOWrapper(written, encoding="ascii"), width=20)
    doctor._say(console, ("ok", "green"), " /home/andré/" + "long/" * 9)
    console.file.flush()
    assert written.getvalue() == b"ok /home/andr?/" + b"long/" * 9 + b"\n"  # in one piece
