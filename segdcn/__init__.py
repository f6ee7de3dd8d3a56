"""Semantic segmentation with deformable convolution.

This file imports nothing: `segdcn.ops` and `segdcn.layers` must import where Lightning,
wandb, smp and albumentations are absent, and `segdcn --help` must answer at once. `load` is
fetched when it is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segdcn.export import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "load":
        from segdcn.export import load

        return load
    raise AttributeError(f"module 'segdcn' has no attribute {name!r}")
