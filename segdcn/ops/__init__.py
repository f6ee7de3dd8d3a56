"""Deformable operators as plain functions; they need torch and the built extension only."""

from segdcn.ops.deform_conv import deform_conv2d

__all__ = ["deform_conv2d"]
