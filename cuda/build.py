"""Compile the operator libraries: which sources, which flags, nvcc or not.

`setup.py` calls `build` when segdcn is installed. By hand:

    python cuda/build.py                  # into segdcn/_lib
    python cuda/build.py --emulated --output DIR    # the GPU's kernels on the CPU, for tests

The libraries use the LibTorch stable ABI at the level of torch 2.11 and hold no Python, so
one build serves every later torch and every Python. An object file is compiled again only
when a source, a header or its command changed.

Environment: CXX, the C++ compiler; CUDA_HOME, the CUDA toolkit; TORCH_CUDA_ARCH_LIST, the GPUs to
compile for ("8.0;9.0+PTX"); SEGDCN_CPU_ONLY=1, to leave the CUDA library out.
"""

import argparse
import hashlib
import os
import platform
import re
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

DEFAULT_GPUS = "8.0;9.0;10.0+PTX"

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


@dataclass(frozen=True)
class Library:
    """One library: its objects, the compiler of each kind of source, and what it is linked with."""

    name: str
    objects: list[Object]
    compilers: dict[str, list[str]]
    link: list[str]


# ---------------------------------------------------------------- the libraries

HOST = ["bindings.cpp", "deform_conv.cpp", "deform_conv_columns.cpp", "roi_pool.cpp"]  # compiled into each of them


def cpu_library(torch: Path) -> Library:
    """Describe the CPU library."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets = list(INSTRUCTION_SETS) if x86 else ["baseline"]
    has = tuple(f"-DSEGDCN_HAS_{name.upper()}" for name in sets)
    loops = [
        Object(
            source,
            (*has, *INSTRUCTION_SETS[name], f"-DSEGDCN_ISA={name}"),
            f"{prefix}loops_{name}",
        )
        for prefix, source in {"": "deform_conv_cpu_loops.cpp", "roi_": "roi_pool_cpu_loops.cpp"}.items()
        for name in sets
    ]
    threads = ["deform_conv_cpu.cpp", "deform_conv_cpu_direct.cpp", "roi_pool_cpu.cpp"]
    plain = map(Object, [*HOST, "product_aten.cpp"])
    objects = [*plain, *(Object(source, has) for source in threads), *loops]
    return Library("segdcn_cpu", objects, {".cpp": [*cxx(), *compile_flags(torch)]}, torch_link(torch))


def emulated_library(torch: Path) -> Library:
    """Describe the library that runs the GPU's kernels on the CPU; it has the CPU library's name and place."""
    objects = [Object(source) for source in [*HOST, "deform_conv_emulated.cpp", "roi_pool_emulated.cpp"]]
    return Library("segdcn_cpu", objects, {".cpp": [*cxx(), *compile_flags(torch)]}, torch_link(torch))


def cuda_library(torch: Path) -> Library | None:
    """Describe the CUDA library; None, with a word on why, where it cannot be built."""
    toolkit = cuda_toolkit()
    headers = [*([toolkit / "include"] if toolkit else []), *torch.parent.glob("nvidia/*/include")]
    cublas = next((folder for folder in headers if (folder / "cublas_v2.h").is_file()), None)
    reason = None
    if os.environ.get("SEGDCN_CPU_ONLY", "0") not in ("", "0"):
        reason = "SEGDCN_CPU_ONLY is set"
    elif torch_cuda(torch) is None:
        reason = "this torch has no CUDA"
    elif toolkit is None:
        reason = "no CUDA toolkit was found (nvcc and libcudart.so; set CUDA_HOME)"
    elif cublas is None:
        reason = (
            f"cublas_v2.h is neither in {toolkit / 'include'} nor among nvidia's packages (pip install nvidia-cublas)"
        )
    if reason is not None or toolkit is None or cublas is None:
        print(f"segdcn: the CUDA library is left out: {reason}")
        return None
    flags = ["-DSEGDCN_CUDA", "-DUSE_CUDA", *system_includes(toolkit / "include", cublas)]
    host = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wno-unused-parameter"]
    nvcc = [
        *(str(toolkit / "bin" / "nvcc"), "-ccbin", *cxx(), "-std=c++17", "-O3", "--extended-lambda"),
        *("--expt-relaxed-constexpr", "--threads", "0", f"-Xcompiler={','.join(host)}", "-diag-suppress=177"),
        *definitions(torch),
        *flags,
        *gpu_code(),
    ]
    objects = [Object(source) for source in [*HOST, "product_cuda.cpp", "deform_conv_cuda.cu", "roi_pool_cuda.cu"]]
    lib = toolkit / "lib64" if (toolkit / "lib64").is_dir() else toolkit / "lib"
    # cuBLAS comes in with torch, which needs it too.
    link = [*torch_link(torch), "-ltorch_cuda", f"-L{lib}", "-lcudart"]
    return Library("segdcn_cuda", objects, {".cpp": [*cxx(), *compile_flags(torch), *flags], ".cu": nvcc}, link)


# ---------------------------------------------------------------- tools


def cxx() -> list[str]:
    """Return the C++ compiler's command."""
    return shlex.split(os.environ.get("CXX", "g++"))


def definitions(torch: Path) -> list[str]:
    """Flags that g++ and nvcc share."""
    includes = [torch / "include", torch / "include" / "torch" / "csrc" / "api" / "include"]
    return [f"-DTORCH_TARGET_VERSION={STABLE_ABI}", *system_includes(*includes)]


def system_includes(*folders: Path) -> list[str]:
    """Flags for headers whose warnings are not ours."""
    return [part for folder in folders for part in ("-isystem", str(folder))]


def compile_flags(torch: Path) -> list[str]:
    """Flags of every C++ compilation."""
    return [
        *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
        *("-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi", "-Wno-maybe-uninitialized"),
        *definitions(torch),
    ]


def torch_link(torch: Path) -> list[str]:
    """Flags that link with torch."""
    return [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]


def torch_cuda(torch: Path) -> str | None:
    """Return the CUDA version that torch was built with; None for a torch without CUDA."""
    match = re.search(r"^cuda(?:: [^=]+)? = '([\d.]+)'", (torch / "version.py").read_text(), re.MULTILINE)
    return match and match[1]


def cuda_toolkit() -> Path | None:
    """Find the folder that holds nvcc and libcudart.so; a wrapper on the PATH may lie elsewhere."""
    named = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    found = [*named, nvcc and str(Path(nvcc).resolve().parent.parent), "/usr/local/cuda"]
    for folder in map(Path, filter(None, found)):
        if (folder / "bin" / "nvcc").is_file() and any(
            (folder / lib / "libcudart.so").exists() for lib in ("lib64", "lib")
        ):
            return folder
    return None


def gpu_code() -> list[str]:
    """Turn TORCH_CUDA_ARCH_LIST into nvcc's flags."""
    flags = []
    for item in re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_GPUS):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", item)
        if match is None:
            sys.exit(f"segdcn: TORCH_CUDA_ARCH_LIST has {item!r}, but must list versions such as '8.0;9.0+PTX'")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


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


def make(library: Library, output: Path, work: Path) -> Path:
    """Compile and link one library; return its path."""
    for compiler in {command[0] for command in library.compilers.values()}:
        if shutil.which(compiler) is None:
            sys.exit(f"segdcn: no C++ compiler {compiler!r} found; install g++ (Debian: apt install g++) or set CXX")
    objects = list(compile_objects(library.objects, library.compilers, work))
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{library.name}.so"
    link = [*cxx(), "-shared", *map(str, objects), *library.link]
    stamp = work / f"{library.name}.stamp"
    current = hashlib.sha256(
        (shlex.join(link) + "".join(o.with_suffix(".stamp").read_text() for o in objects)).encode()
    ).hexdigest()
    if not (path.exists() and stamp.exists() and stamp.read_text() == current):
        # Linked beside and moved: a process that has the old library open keeps it whole.
        fresh = path.with_suffix(".new")
        run([*link, "-o", str(fresh)])
        fresh.replace(path)
        stamp.write_text(current)
    return path


def build(output: Path, work: Path) -> list[Path]:
    """Build every library this machine can build into `output`; return their paths.

    Args:
        output: Folder for the libraries; replaced file by file.
        work: Folder for object files, kept between builds.
    """
    torch = torch_folder()
    paths = [make(cpu_library(torch), output, work / "cpu")]
    cuda = cuda_library(torch)
    if cuda is not None:
        paths.append(make(cuda, output, work / "cuda"))
    else:
        (output / "segdcn_cuda.so").unlink(missing_ok=True)  # of an earlier build, which no longer fits
    return paths


if __name__ == "__main__":
    root = SOURCES.parent
    parser = argparse.ArgumentParser(description="Build segdcn's operator libraries.")
    parser.add_argument("--output", type=Path, default=root / "segdcn" / "_lib")
    parser.add_argument("--work", type=Path, default=root / "build")
    parser.add_argument("--emulated", action="store_true", help="the GPU's kernels on the CPU, for tests")
    arguments = parser.parse_args()
    if arguments.emulated:
        print(make(emulated_library(torch_folder()), arguments.output, arguments.work / "emulated"))
    else:
        for path in build(arguments.output, arguments.work):
            print(path)
