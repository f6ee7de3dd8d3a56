"""Weights of mmcv's deformable convolutions for `DeformableConv2d`."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from segdcn.errors import UserValueError

# `conv2_offset` is how `conv2.conv_offset` was called before mmcv.
OFFSET_WEIGHT = re.compile(r"(?:(?P<layer>.*)\.)?conv_offset\.weight|(?P<early>.*)_offset\.weight")


def from_mmcv(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and rescale mmcv's deformable convolutions, so that `DeformableConv2d` computes what they did.

    For each layer that owns its offsets (`DeformConv2dPack`, registered as DCN, and
    `ModulatedDeformConv2dPack`, DCNv2):

    1. `conv_offset` becomes `offset_conv`. Its channels are in the same order: (dy, dx) interleaved
       per tap, offset group after offset group, then DCNv2's factors.
    2. DCNv2 multiplies reads by sigmoid, we by 2*sigmoid: `weight` is halved, which is exact (and float32
       where half precision has no such number). `bias` is not multiplied by the factors and stays.

    Which of the two it is, and how many offset groups it has, is seen from the shapes. All else is kept
    as it is; stride, padding and dilation are not in a state dict.

    Args:
        state_dict: Weights of a network or of a single layer.

    Returns:
        A new dict; tensors that need no change are shared.

    Raises:
        UserValueError: A layer whose shapes fit neither kind, or both.

    Source: mmcv 2.x, mmcv/ops/deform_conv.py and modulated_deform_conv.py.
    """
    converted = dict(state_dict)
    for name in state_dict:
        match = OFFSET_WEIGHT.fullmatch(name)
        if match is None or (match["early"] is not None and f"{match['early']}.weight" not in state_dict):
            continue
        layer = match["early"] if match["early"] is not None else match["layer"] or ""
        prefix, old = f"{layer}." if layer else "", name.removesuffix(".weight")
        missing = [key for key in (f"{prefix}weight", f"{old}.bias") if key not in state_dict]
        if missing:
            raise UserValueError(
                f"there is {name} but no {missing[0]}: only layers that own their offsets can be converted, "
                "mmcv's DeformConv2dPack and ModulatedDeformConv2dPack"
            )
        weight, offset_weight = state_dict[f"{prefix}weight"], state_dict[name]
        modulated, _ = offset_fields(weight, offset_weight, layer)
        for end in ("weight", "bias"):
            converted[f"{prefix}offset_conv.{end}"] = converted.pop(f"{old}.{end}")
        if modulated:
            half = weight / 2
            converted[f"{prefix}weight"] = half if torch.equal(half * 2, weight) else weight.float() / 2
    return converted


def offset_fields(weight: Tensor, offset_weight: Tensor, layer: str = "") -> tuple[bool, int]:
    """See from the shapes whether a deformable convolution is modulated, and how many offset groups it has.

    Of K taps and G groups, offsets take 2*G*K channels and modulation G*K more. Where the sum is a
    multiple of 6*K, both are possible but for this: G divides the input channels.

    Args:
        weight: (O, C / groups, kh, kw).
        offset_weight: Of the convolution that predicts the offsets, (fields, C, kh, kw).
        layer: Its name, for messages.

    Returns:
        Whether it is modulated, and G.

    Raises:
        UserValueError: Neither kind has these shapes, or both have.
    """
    kinds = []
    if weight.dim() == offset_weight.dim() == 4 and weight.shape[2:] == offset_weight.shape[2:]:
        fields, channels, height, width = offset_weight.shape
        for modulated, per_tap in ((False, 2), (True, 3)):
            groups, rest = divmod(fields, per_tap * height * width)
            if rest == 0 and channels % groups == 0:
                kinds.append((modulated, groups))
    if len(kinds) == 1:
        return kinds[0]
    shapes = f"weight {tuple(weight.shape)} and offsets {tuple(offset_weight.shape)}"
    if not kinds:
        raise UserValueError(f"layer {layer!r} is no deformable convolution of mmcv: its shapes are {shapes}")
    possible = " or ".join(f"version {1 + modulated} with {groups} offset groups" for modulated, groups in kinds)
    raise UserValueError(f"layer {layer!r} may be {possible}: its shapes, {shapes}, do not tell")
