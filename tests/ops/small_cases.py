"""Small calls of the convolutions that between them go through every loop, for checks that take long (valgrind).

RoI poolings have fuzz_regions.py.
"""

import argparse
import os
from dataclasses import replace

import torch
from geometry import AWKWARD, AWKWARD3D, Geometry, random_tensors

from segdcn.ops import deform_conv2d, deform_conv3d

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for the fixed order

GEOMETRIES = [
    AWKWARD,
    replace(AWKWARD, channels=30, groups=1, height=11, width=13),
    Geometry(3, 5, 6, 7, 9, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    Geometry(1, 70, 3, 3, 66, (3, 3), (1, 1), (1, 1), (1, 1), 1, 1),  # a few pixels: no packed weight
    AWKWARD3D,
    replace(AWKWARD3D, channels=24, groups=1, offset_groups=1),
]


def main() -> None:
    """Run them all; the numbers are for other tests to judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.set_num_threads(2)
    print(torch.ops.segdcn.cpu_capability(), flush=True)
    orders = [False, True] if device.type == "cuda" else [False]
    for fixed_order in orders:
        torch.use_deterministic_algorithms(fixed_order)
        run(device)


def run(device: torch.device) -> None:
    """Run every case in every dtype and layout."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for geometry in GEOMETRIES:
            operator, last = (deform_conv2d, torch.channels_last)
            if geometry.depth:
                operator, last = (deform_conv3d, torch.channels_last_3d)
            for layout in (torch.contiguous_format, last):
                tensors = random_tensors(geometry, dtype=dtype)
                tensors.input = tensors.input.contiguous(memory_format=layout)
                tensors.offset.view(-1)[::17] = float("nan")
                tensors.offset.view(-1)[5::23] = 1e9
                tensors.map(lambda t: t.to(device)).gradients(operator, geometry)
        print(dtype, flush=True)


if __name__ == "__main__":
    main()
