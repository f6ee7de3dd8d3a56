"""How exactly a GPU computes in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32() -> Iterator[None]:
    """Keep a GPU from rounding float32 to TF32, 10 bits of mantissa, as torch lets convolutions do.

    By torch's older switch: `torch.export` reads that one, which torch refuses once the newer ones were
    set to something else.
    """
    cudnn = torch.backends.cudnn
    switches = [cudnn.conv, cudnn.rnn]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before == ["tf32", "tf32"]  # as torch begins
        for switch, precision in zip(switches, before, strict=True):
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision
