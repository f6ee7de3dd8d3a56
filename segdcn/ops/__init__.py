"""Deformable operators; they need torch and the built extension only."""

from segdcn.ops.deform_conv import deform_conv2d
from segdcn.ops.deform_conv3d import deform_conv3d
from segdcn.ops.modules import DeformConv2d
from segdcn.ops.roi_pool import deform_psroi_pool, deform_roi_pool

__all__ = ["DeformConv2d", "deform_conv2d", "deform_conv3d", "deform_psroi_pool", "deform_roi_pool"]
