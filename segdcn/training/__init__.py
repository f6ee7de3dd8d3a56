"""fit, validate and test: configuration in, a run folder out."""

from segdcn.training.command import SegmentationCLI
from segdcn.training.entry import Rehearsal, rehearse, train
from segdcn.training.messages import NOISE
from segdcn.training.options import LINKS

__all__ = ["LINKS", "NOISE", "Rehearsal", "SegmentationCLI", "rehearse", "train"]
