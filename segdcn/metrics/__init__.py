"""Measures over a whole data set."""

from segdcn.metrics.boundary import BoundaryIoU
from segdcn.metrics.calibration import Calibration
from segdcn.metrics.confusion import ConfusionMatrix
from segdcn.metrics.evaluation import Evaluation
from segdcn.metrics.mean import WeightedMean
from segdcn.metrics.objects import ObjectSizes

__all__ = ["BoundaryIoU", "Calibration", "ConfusionMatrix", "Evaluation", "ObjectSizes", "WeightedMean"]
