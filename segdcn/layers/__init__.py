"""Layers that own their offsets: drop-in replacements for torch.nn modules, torch only."""

from segdcn.layers.deform_conv import DeformableConv2d
from segdcn.layers.deform_roi_pool import (
    DeformablePSRoIPool,
    DeformableRoIPool,
    ModulatedDeformableRoIPool,
    MultiScaleDeformableRoIPool,
)

__all__ = [
    "DeformableConv2d",
    "DeformablePSRoIPool",
    "DeformableRoIPool",
    "ModulatedDeformableRoIPool",
    "MultiScaleDeformableRoIPool",
]
