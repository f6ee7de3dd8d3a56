"""The memory that may be taken is the least that anybody allows."""

import math

import pytest

from segdcn.data.memory import available_memory

MEMINFO = "MemTotal:       100000 kB\nMemFree: 10 kB\nMemAvailable:    50000 kB\n"


def machine(root, files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_limits_it_is_what_the_kernel_calls_available(tmp_path):
    assert available_memory(machine(tmp_path, {})) == 50000 * 1024


@pytest.mark.parametrize("limited", ["job", "job/step"])
def test_the_limit_of_a_group_or_of_one_above_it_counts(tmp_path, limited):
    """Version 2: 10 MB allowed, 6 MB taken, of which 1 MB can be dropped, leaves 5 MB."""
    files = {"proc/self/cgroup": "0::/job/step\n"}
    for group in ("job", "job/step"):
        folder = f"sys/fs/cgroup/{group}"
        files[f"{folder}/memory.max"] = "10000000\n" if group == limited else "max\n"
        files[f"{folder}/memory.current"] = "6000000\n"
        files[f"{folder}/memory.stat"] = "anon 5\ninactive_file 1000000\n"
    assert available_memory(machine(tmp_path, files)) == 5_000_000


def test_the_first_version_of_groups_is_read_too(tmp_path):
    folder = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "4:cpu,memory:/job\n0::/\n",
        f"{folder}/memory.limit_in_bytes": "10000000\n",
        f"{folder}/memory.usage_in_bytes": "6000000\n",
        f"{folder}/memory.stat": "total_inactive_file 0\n",
    }
    assert available_memory(machine(tmp_path, files)) == 4_000_000


def test_in_a_container_the_limit_at_the_top_counts(tmp_path):
    """The path that the kernel names is the host's; only the container's own files are to be seen."""
    files = {
        "proc/self/cgroup": "0::/docker/abc\n",
        "sys/fs/cgroup/memory.max": "3000000\n",
        "sys/fs/cgroup/memory.current": "1000000\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
    }
    assert available_memory(machine(tmp_path, files)) == 2_000_000


def test_a_limit_that_is_passed_leaves_nothing(tmp_path):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "1000\n",
        "sys/fs/cgroup/memory.current": "2000\n",
        "sys/fs/cgroup/memory.stat": "",
    }
    assert available_memory(machine(tmp_path, files)) == 0


def test_a_system_that_says_nothing_has_no_limit(tmp_path):
    assert available_memory(tmp_path) == math.inf
