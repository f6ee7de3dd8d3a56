"""Layers that own their offsets: drop-in replacements for torch.nn modules, torch only."""

from segdcn.layers.deform_conv import DeformableConv2d, DeformableConv3d
from segdcn.layers.deform_roi_pool import (
    DeformablePSRoIPool,
    DeformableRoIPool,
    ModulatedDeformableRoIPool,
    MultiScaleDeformableRoIPool,
)
from segdcn.layers.mmcv import from_mmcv

__all__ = [
    "DeformableConv2d",
    "DeformableConv3d",
    "DeformablePSRoIPool",
    "DeformableRoIPool",
    "ModulatedDeformableRoIPool",
    "MultiScaleDeformableRoIPool",
    "from_mmcv",
]
