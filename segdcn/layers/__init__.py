"""Layers that own their offsets: drop-in replacements for torch.nn modules, torch only."""

from segdcn.layers.deform_conv import DeformableConv2d, DeformableConv3d

__all__ = ["DeformableConv2d", "DeformableConv3d"]
