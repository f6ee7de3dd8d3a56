"""Trained networks as files that others can run, and the way back to a `Predictor`."""

from segdcn.export.formats import FORMATS, load, read_trained, write

__all__ = ["FORMATS", "load", "read_trained", "write"]
