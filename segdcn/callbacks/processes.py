"""Bringing together what the processes of a run have found."""

from typing import Any

import torch.distributed as dist


def of_all_processes(found: list[Any]) -> list[Any]:
    """Join the lists of all processes, in their order; every process gets the whole."""
    if not (dist.is_available() and dist.is_initialized()):
        return found
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, found)
    return [one for part in gathered for one in part]
