"""One attempt to break a verb: run in a process of its own, under a limit, and judged by what it leaves."""

import ctypes
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from select import select
from typing import NamedTuple, NoReturn

from segdcn import cli

LONGEST_LINE = 700
MEMORY = 16 << 30  # of address space: what asks for more shall fail, not the machine


@dataclass(frozen=True)
class Mutation:
    """Something wrong.

    Attributes:
        name: What it is.
        make: Called with a fresh copy of the workplace, which is the working directory, and a generator; it spoils
            something there and returns the arguments after `segdcn`.
        file_size: The largest file that can be written; None is no limit.
        starts: A run may have begun before the mutation is met, so a run folder may be left.
        listed: The verb's answer may be a list of problems and exit code 1.
    """

    name: str
    make: Callable[[Path, Random], list[str]]
    file_size: int | None = None
    starts: bool = False
    listed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt; `problem` is empty where all is as it should be."""

    problem: str
    line: str
    seconds: float


def attempt(mutation: Mutation, template: Path, folder: Path, seed: str, limit: float) -> Outcome:
    """Copy the workplace, spoil the copy, run the verb there, and judge."""
    shutil.copytree(template, folder, copy_function=_link_large, symlinks=True)
    # In a fork too: this process must compute nothing with torch, whose threads no fork takes along.
    spoilt = run(lambda: print(json.dumps(mutation.make(folder, Random(seed)))), folder, limit)
    if spoilt.code != 0:
        raise RuntimeError(f"{mutation.name} cannot be made: {spoilt.error}")
    arguments = json.loads(spoilt.output)
    before, started = _files(folder), time.monotonic()
    ended = run(lambda: _segdcn(arguments, mutation.file_size), folder, limit)
    seconds = time.monotonic() - started
    problem = judge(mutation, ended, new=sorted(_files(folder) - before))
    _remove(folder)
    lines = ended.error.strip().splitlines() or ended.output.strip().splitlines()[-1:]
    return Outcome(problem and f"{problem}: segdcn {shlex.join(arguments)[:300]}", " | ".join(lines), seconds)


def judge(mutation: Mutation, ended: "Ended", new: list[str]) -> str:
    """Say what is not as it should be."""
    code, output, error = ended
    if code is None:
        return "hangs"
    if code < 0:
        return f"ends by {signal.Signals(-code).name}"
    if "Traceback (most recent call last)" in output + error:
        return "traceback"
    if code == 0:
        return "exit code 0"
    if code not in (1, 2):
        return f"exit code {code}"
    lines = error.splitlines()
    warned = [line for line in lines if line.startswith("segdcn: ") and not line.startswith("segdcn: error: ")]
    if code == 2 and (len(lines) != len(warned) + 1 or not lines[-1].startswith("segdcn: error: ")):
        return f"{len(lines)} lines instead of one"
    if code == 1 and (error or not mutation.listed):
        return "exit code 1"
    if any(len(line) > LONGEST_LINE for line in lines):
        return f"a line of {max(map(len, lines))} letters"
    left = [name for name in new if not (mutation.starts and name.startswith("runs/") and not name.endswith(".part"))]
    return f"leaves {left[0]}" if left else ""


class Ended(NamedTuple):
    """How a process ended, with code None if it had to be killed, and what it said."""

    code: int | None
    output: str
    error: str


def run(work: Callable[[], int | None], folder: Path, limit: float) -> Ended:
    """Do something in a fork of this process, which has imported all and computed nothing."""
    ends = [os.pipe(), os.pipe()]  # no files: a limit on their size is for what segdcn writes
    sys.stdout.flush()
    process = os.fork()
    if not process:
        _work(work, folder, [write for _, write in ends])
    said = {read: b"" for read, _ in ends}
    for _, write in ends:
        os.close(write)
    end, running = time.monotonic() + limit, True
    while running and time.monotonic() < end:
        running = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        _take(said, 0.02)
    while _take(said, 0):
        pass
    try:
        os.killpg(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    for read, _ in ends:
        os.close(read)
    output, error = (said[read].decode(errors="replace") for read, _ in ends)
    return Ended(None if running else code, output, error)


def _take(said: dict[int, bytes], wait: float) -> bool:
    """Read what there is, waiting so many seconds for it; tell whether there was something."""
    chunks = {read: os.read(read, 1 << 16) for read in select(list(said), [], [], wait)[0]}
    for read, chunk in chunks.items():
        said[read] += chunk
    return any(chunks.values())


def _work(work: Callable[[], int | None], folder: Path, ends: list[int]) -> NoReturn:
    code = 70
    try:
        os.setsid()
        for number, write in enumerate(ends, 1):
            os.dup2(write, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(folder)
        code = work() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _segdcn(arguments: list[str], file_size: int | None) -> int:
    """Run the command line, with no way past permissions and under limits."""
    sys.dont_write_bytecode = True  # a limit on the size of files would leave half of it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    bound_by_permissions()
    return cli.main(arguments)


def bound_by_permissions() -> bool:
    """Give up root's right to read and write what permissions forbid; tell whether they bind now."""
    if os.geteuid() != 0:
        return True

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    class Data(ctypes.Structure):
        _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]

    libc = ctypes.CDLL(None)
    header, data = Header(0x20080522, 0), (Data * 2)()
    if libc.capget(ctypes.byref(header), data) != 0:
        return False
    for bit in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        data[0].effective &= ~(1 << bit)
    return libc.capset(ctypes.byref(header), data) == 0


def _files(folder: Path) -> set[str]:
    """Name all files below a folder, with their sizes and times: a changed file is a new one."""
    found = set()
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            status = path.lstat()
            found.add(f"{path.relative_to(folder)} ({status.st_size} bytes, {status.st_mtime_ns})")
    return found


def _link_large(source: str, target: str) -> None:
    """Copy a file, but for checkpoints, which are replaced and never changed in place."""
    os.link(source, target) if source.endswith(".ckpt") else shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir():
        for where, _, _ in os.walk(path):
            os.chmod(where, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
