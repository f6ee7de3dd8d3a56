"""Weights that others trained: read without running anything, recognised, and given our names."""

from segdcn.models.weights.deeplab import FoundDeepLab, find_deeplab
from segdcn.models.weights.encoder import find_encoder, listed, load_encoder
from segdcn.models.weights.file import WeightsFile, read_weights

__all__ = [
    "FoundDeepLab",
    "WeightsFile",
    "find_deeplab",
    "find_encoder",
    "listed",
    "load_encoder",
    "read_weights",
]
