"""Semantic segmentation with deformable convolution.

This file imports nothing: `segdcn.ops` and `segdcn.layers` must import where Lightning,
wandb, smp and albumentations are absent, and `segdcn --help` must answer at once.
"""

__version__ = "0.1.0"
