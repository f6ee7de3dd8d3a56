"""Measures over a whole data set."""

from segdcn.metrics.confusion import ConfusionMatrix
from segdcn.metrics.mean import WeightedMean

__all__ = ["ConfusionMatrix", "WeightedMean"]
