"""Compile the operator libraries: which sources, which flags, nvcc or not.

`setup.py` calls `build` when segdcn is installed. By hand:

    python cuda/build.py                  # into segdcn/_lib

The libraries use the LibTorch stable ABI at the level of torch 2.11 and hold no Python, so
one build serves every later torch and every Python. An object file is compiled again only
when a source, a header or its command changed.
"""

import argparse
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
STABLE_ABI = "0x020b000000000000"  # torch 2.11: TORCH_TARGET_VERSION, major and minor in the top bytes

# The CPU's inner loops are compiled once per instruction set and chosen when the library
# is loaded, so a wheel runs on processors older than the machine that built it.
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mfma",
        "-mf16c",
        "-mprefer-vector-width=512",
    ],
}


@dataclass(frozen=True)
class Object:
    """One compilation: a source and the flags that are its own."""

    source: str
    flags: tuple[str, ...] = ()
    name: str = ""


def torch_folder() -> Path:
    """Find torch without importing it: importing takes seconds and is not needed."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("segdcn: torch is not installed in this Python; run: pip install 'torch>=2.11'")
    return Path(spec.origin).parent


def cpu_objects() -> list[Object]:
    """List the compilations of the CPU library."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets = list(INSTRUCTION_SETS) if x86 else ["baseline"]
    has = tuple(f"-DSEGDCN_HAS_{name.upper()}" for name in sets)
    loops = [
        Object(
            "deform_conv_cpu_loops.cpp",
            (*has, *INSTRUCTION_SETS[name], f"-DSEGDCN_ISA={name}"),
            f"loops_{name}",
        )
        for name in sets
    ]
    plain = ["bindings.cpp", "deform_conv.cpp", "deform_conv_columns.cpp"]
    threads = ["deform_conv_cpu.cpp", "deform_conv_cpu_direct.cpp"]
    return [*map(Object, plain), *(Object(source, has) for source in threads), *loops]


def compile_flags(torch: Path) -> list[str]:
    """Flags of every C++ compilation."""
    includes = [torch / "include", torch / "include" / "torch" / "csrc" / "api" / "include"]
    return [
        *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
        *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-maybe-uninitialized"),
        f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
        *(f"-isystem{folder}" for folder in includes),
    ]


def run(command: list[str]) -> None:
    """Run a compiler; on failure show its words and stop."""
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"segdcn: failed: {shlex.join(command)}\n{result.stdout}{result.stderr}")
    if result.stderr.strip():
        print(result.stderr, file=sys.stderr)


def fingerprint(command: list[str], source: Path) -> str:
    """Hash what an object depends on: its command, its source and every header here."""
    digest = hashlib.sha256(shlex.join(command).encode())
    for file in [source, *sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.cuh"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def compile_objects(objects: list[Object], command_for: "dict[str, list[str]]", folder: Path) -> Iterator[Path]:
    """Compile in parallel what changed; yield the object files in order."""

    def compile_one(item: Object) -> Path:
        source = SOURCES / item.source
        target = folder / f"{item.name or source.stem}.o"
        stamp = target.with_suffix(".stamp")
        command = [*command_for[source.suffix], *item.flags, "-c", str(source), "-o", str(target)]
        current = fingerprint(command, source)
        if not (target.exists() and stamp.exists() and stamp.read_text() == current):
            print(f"compiling {target.stem}", flush=True)
            run(command)
            stamp.write_text(current)
        return target

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(compile_one, objects)


def build(output: Path, work: Path) -> list[Path]:
    """Build every library this machine can build into `output`; return their paths.

    Args:
        output: Folder for the libraries; replaced file by file.
        work: Folder for object files, kept between builds.
    """
    torch = torch_folder()
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    if shutil.which(compiler[0]) is None:
        sys.exit(f"segdcn: no C++ compiler {compiler[0]!r} found; install g++ (Debian: apt install g++) or set CXX")
    objects = list(compile_objects(cpu_objects(), {".cpp": [*compiler, *compile_flags(torch)]}, work / "cpu"))
    output.mkdir(parents=True, exist_ok=True)
    library = output / "segdcn_cpu.so"
    link = [*compiler, "-shared", *map(str, objects), f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    stamp = work / "cpu" / "segdcn_cpu.stamp"
    current = hashlib.sha256(
        (shlex.join(link) + "".join(o.with_suffix(".stamp").read_text() for o in objects)).encode()
    ).hexdigest()
    if not (library.exists() and stamp.exists() and stamp.read_text() == current):
        # Linked beside and moved: a process that has the old library open keeps it whole.
        fresh = library.with_suffix(".new")
        run([*link, "-o", str(fresh)])
        fresh.replace(library)
        stamp.write_text(current)
    return [library]


if __name__ == "__main__":
    root = SOURCES.parent
    parser = argparse.ArgumentParser(description="Build segdcn's operator libraries.")
    parser.add_argument("--output", type=Path, default=root / "segdcn" / "_lib")
    parser.add_argument("--work", type=Path, default=root / "build")
    arguments = parser.parse_args()
    for path in build(arguments.output, arguments.work):
        print(path)
