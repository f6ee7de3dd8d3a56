"""How far a network's confidence is from how often it is right."""

import torch
from torch import Tensor

from segdcn.losses import IGNORE
from segdcn.metrics.sums import Sums


class Calibration(Sums):
    """Expected calibration error over pixels.

    A pixel's confidence is the probability of the predicted class. Pixels are sorted into equal
    bins (a, b] of confidence; with n_i pixels in bin i and n in all,

        ECE = sum over i of n_i / n * |share of pixels that are right - mean confidence|

    0 is a network that is right in 80 % of the pixels it is 80 % sure of.

    Args:
        num_bins: Bins between 0 and 1.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3 and 5; 15 bins as there.
    """

    pixels: Tensor
    right: Tensor
    confidence: Tensor

    def __init__(self, num_bins: int = 15) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.add_sum("pixels", num_bins)
        self.add_sum("right", num_bins)
        self.add_sum("confidence", num_bins, dtype=torch.float64)

    @torch.no_grad()
    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add logits (B, N, H, W) and labels (B, H, W), of which 255 is ignored."""
        counted = labels != IGNORE
        best, prediction = logits.float().max(1)
        # The largest of the softmax, without the others.
        confidence = (best - logits.float().logsumexp(1)).exp()[counted]
        right = (prediction == labels)[counted]
        edges = torch.linspace(0, 1, self.num_bins + 1, device=confidence.device)
        # A confidence rounded above 1 belongs to the last bin.
        bins = (torch.bucketize(confidence, edges) - 1).clamp(0, self.num_bins - 1)
        there = self.pixels.device
        if torch.are_deterministic_algorithms_enabled():
            # On a GPU torch has no fixed order for the weighted count, and refuses.
            bins, right, confidence = bins.cpu(), right.cpu(), confidence.cpu()
        self.pixels += torch.bincount(bins, minlength=self.num_bins).to(there)
        self.right += torch.bincount(bins[right], minlength=self.num_bins).to(there)
        self.confidence += torch.bincount(bins, confidence.double(), minlength=self.num_bins).to(there)

    def error(self) -> Tensor:
        """Return the expected calibration error, a float64 scalar; NaN if no pixel was counted."""
        return (self.right - self.confidence).abs().sum() / self.pixels.sum()
