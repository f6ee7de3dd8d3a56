"""Networks: DeepLab heads on ResNet encoders whose last convolutions are deformable."""

from segdcn.models.deeplab import ARCHITECTURES, DeepLab, build_deeplab
from segdcn.models.encoder import ENCODERS, build_encoder, deformable_layers, make_deformable

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "DeepLab",
    "build_deeplab",
    "build_encoder",
    "deformable_layers",
    "make_deformable",
]
