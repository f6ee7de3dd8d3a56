"""Data sets: one class each, see `segdcn.data.base.SegmentationData`."""

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.cityscapes import Cityscapes
from segdcn.data.dataset import SegmentationDataset
from segdcn.data.folder import Folder
from segdcn.data.loading import EpochSampler, original_message
from segdcn.data.shapes import Shapes
from segdcn.data.voc import VOC

__all__ = [
    "VOC",
    "Cityscapes",
    "EpochSampler",
    "Folder",
    "Sample",
    "SegmentationData",
    "SegmentationDataset",
    "Shapes",
    "original_message",
]
