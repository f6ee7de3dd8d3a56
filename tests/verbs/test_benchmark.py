import json
import mmap
import sys

import pytest
import torch

from segdcn.errors import UserValueError
from segdcn.timing import Timing, alternate, peak_memory
from segdcn.verbs import benchmark

TINY = "1,4,5,6,4,1"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_every_candidate_is_timed_in_every_dtype_it_has(dtype, tmp_path, capsys):
    file = tmp_path / "figures.json"
    benchmark.ops(sizes=[TINY], dtypes=[dtype], rounds=2, json=str(file))
    forward, both = json.loads(file.read_text())["rows"]
    expected = {"segdcn", "conv2d", "reference"} | ({"torchvision"} if dtype != "bfloat16" else set())
    assert set(both["seconds"]) == expected
    assert set(forward["seconds"]) == expected | ({"onnxruntime"} if dtype == "float32" else set())
    assert all(seconds > 0 for seconds in forward["seconds"].values())
    shown = capsys.readouterr().out
    assert TINY in shown and dtype in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_size_with_a_depth_is_a_convolution_in_three_dimensions(tmp_path, capsys):
    file = tmp_path / "figures.json"
    benchmark.ops(sizes=["1,4,3,5,6,4,1"], rounds=2, json=str(file))
    rows = json.loads(file.read_text())["rows"]
    assert [set(row["seconds"]) for row in rows] == [{"segdcn", "conv3d", "reference"}] * 2
    assert "1,4,3,5,6,4,1" in capsys.readouterr().out
    candidates = benchmark._candidates(benchmark.Size.parse("2,6,3,9,8,4,2"), torch.float32, torch.device("cpu"), False)
    torch.testing.assert_close(candidates["reference"](), candidates["segdcn"](), rtol=1e-4, atol=1e-4)


def test_the_candidates_compute_the_same():
    """What is compared in time has to be comparable: one convolution, four ways."""
    size = benchmark.Size.parse("2,6,9,8,4,2")
    candidates = benchmark._candidates(size, torch.float32, torch.device("cpu"), backward=False)
    ours = candidates["segdcn"]()
    torch.testing.assert_close(candidates["reference"](), ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(candidates["torchvision"](), ours, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(candidates["onnxruntime"]()[0]), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"sizes": ["1,2"]}, "is not B,C,H,W,O,dilation"),
        ({"rounds": 1}, "at least 2 rounds"),
        ({"threads": 0}, "1 thread"),
        ({"device": "tpu"}, "must be cpu or cuda"),
        ({"json": "nowhere/x.json"}, "json is nowhere/x.json, but must be a file in a folder that exists"),
        ({"json": "."}, "json is ., but must be a file in a folder"),
        ({"json": "/proc/x.json"}, "json is /proc/x.json, but must be a file that can be written"),
        ({"sizes": []}, "sizes is empty"),
        ({"dtypes": []}, "dtypes is empty"),
        ({"sizes": ["1,4,5,6,4,²"]}, "is not B,C,H,W,O,dilation"),
        ({"sizes": ["1,1,65536,32768,1,1"]}, "is too large: .* less than 2..31 - 1 pixels"),
        ({"sizes": [f"{10**9},{10**9},9,9,9,1"]}, "is too large: its tensors alone take"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_timed(settings, message):
    with pytest.raises(UserValueError, match=message):
        benchmark.ops(**settings)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: ...")])
def test_memory_that_runs_out_is_named_with_the_size(error, monkeypatch):
    def exhausted(*_):
        raise error

    monkeypatch.setattr(benchmark, "alternate", exhausted)
    with pytest.raises(UserValueError, match=f"size {TINY} in float32 does not fit into the memory of cpu"):
        benchmark.ops(sizes=[TINY])


def test_candidates_take_turns():
    calls = []
    timings = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # one call each that is not counted, then three rounds
    assert set(timings) == {"a", "b"}


def test_percentiles_are_interpolated_between_rounds():
    """Of 0 to 10 s in eleven rounds, half are at most 5 s, and 99 % at most 9.9 s."""
    timing = Timing(tuple(float(second) for second in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10)))
    assert timing.median == timing.percentile(50) == 5
    assert timing.percentile(90) == pytest.approx(9) and timing.percentile(99) == pytest.approx(9.9)


def test_only_the_candidates_asked_for_are_timed(tmp_path):
    file = tmp_path / "figures.json"
    benchmark.ops(sizes=[TINY], candidates=["conv2d"], backward=False, rounds=2, json=str(file))
    (row,) = json.loads(file.read_text())["rows"]
    assert set(row["seconds"]) == set(row["memory"]) == {"segdcn", "conv2d"}


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_memory_is_what_a_call_needs_beyond_what_it_returns():
    """64 MiB that are given back count, the 16 MiB that are returned do not."""

    def call():
        temporary = torch.ones(16 << 20)
        return temporary[: 4 << 20].clone()

    call()
    measured = peak_memory(call, torch.device("cpu")) / 2**20
    assert 60 < measured < 72
    assert peak_memory(lambda: torch.ones(16 << 20), torch.device("cpu")) / 2**20 < 4


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_pages_of_files_that_come_back_are_no_need_of_a_call(tmp_path):
    """As those of libraries do, after the system was short of memory."""
    path = tmp_path / "library"
    path.write_bytes(bytes(32 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        measured = peak_memory(lambda: torch.tensor(mapped[:: mmap.PAGESIZE].count(1)), torch.device("cpu"))
    assert measured / 2**20 < 8


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backward", [False, True])
def test_the_operators_memory_does_not_grow_with_the_batch(dtype, backward):
    """The promise is 64 MiB; columns of the whole batch would take 9 times the input, 72 and 576 MiB."""
    used = {}
    for batch in (2, 16):
        size = benchmark.Size(batch, 256, 64, 64, 32, 1)
        call = benchmark._candidates(size, dtype, torch.device("cpu"), backward)["segdcn"]
        call()
        used[batch] = peak_memory(call, torch.device("cpu")) / 2**20
    assert max(used.values()) < 64


@pytest.mark.parametrize("operator", ["deform_roi_pool", "deform_psroi_pool"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_roi_poolings_are_timed_too(operator, dtype, tmp_path, capsys):
    file = tmp_path / "figures.json"
    benchmark.ops(["1,2,8,9,3,2"], [dtype], rounds=2, json=str(file), operator=operator)
    forward, both = json.loads(file.read_text())["rows"]
    assert set(forward["seconds"]) == set(both["seconds"])
    assert set(both["seconds"]) == {"segdcn", "reference"} | ({"torchvision"} if dtype == "float32" else set())
    shown = capsys.readouterr().out
    assert operator in shown and max(map(len, shown.splitlines())) <= 80
    with pytest.raises(UserValueError, match="is not B,C,H,W,R,samples"):
        benchmark.ops(["1,2"], operator=operator)
