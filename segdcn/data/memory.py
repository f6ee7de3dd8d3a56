"""How much memory may still be taken: by the machine, and by the limits that a container or a job has."""

import math
from pathlib import Path


def available_memory(root: Path = Path("/")) -> float:
    """Return the bytes that this process may still take without swapping; infinity where the system does not say.

    The least of what the kernel calls available and of what is left below each limit of the process's
    control groups (v1 and v2), file caches that can be dropped counted as free.

    Args:
        root: Where proc and sys lie.
    """
    left = [_meminfo(root / "proc/meminfo")]
    for folder, limit, usage, inactive in _groups(root):
        try:
            allowed, taken = (folder / limit).read_text().strip(), int((folder / usage).read_text())
            if allowed != "max":
                left.append(max(0, int(allowed) - taken + _field(folder / "memory.stat", inactive, 0)))
        except (OSError, ValueError):
            continue
    return min(left)


def _groups(root: Path) -> list[tuple[Path, str, str, str]]:
    """List the folders of the process's memory groups, up to the topmost, with the names of their files."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        # Inside a container the path may be the host's; the container's own limits are then at the top.
        folder = top / path.lstrip("/")
        found += [(place, *names) for place in (folder, *folder.parents) if place == top or top in place.parents]
    return found


def _meminfo(path: Path) -> float:
    try:
        return 1024 * _field(path, "MemAvailable:", math.inf)
    except OSError:
        return math.inf


def _field(path: Path, name: str, default: float) -> float:
    """Read a number from a file of lines such as `name 12`."""
    rows = (line.split() for line in path.read_text().splitlines())
    return next((int(row[1]) for row in rows if row and row[0] == name), default)
