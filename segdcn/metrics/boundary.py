"""IoU of the bands along boundaries, over a whole data set."""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from segdcn.losses import IGNORE
from segdcn.metrics.sums import Sums

DISTANCE = 0.02  # of the image's diagonal: the paper's choice for pictures of objects


class BoundaryIoU(Sums):
    """Boundary IoU of every class: large objects cannot hide coarse outlines behind their insides.

    With G_d the pixels of a class that lie within d pixels of its boundary in the labels, and P_d
    likewise in the prediction,

        boundary IoU = |G_d and P_d| / |G_d or P_d|

    where both counts are sums over all images. "Within d pixels" is meant as the original code
    means it: a square of side 2d + 1 around the pixel leaves the class. The image's border is a boundary.

    Pixels that the labels ignore are taken as ignored in the prediction too, so what is predicted
    there changes nothing, and a right prediction scores 1. A class that has a band neither in labels
    nor in predictions is NaN.

    Args:
        num_classes: N; labels and predictions lie in [0, N), 255 in the labels is ignored.
        distance: d as a share of the image's diagonal, rounded to whole pixels, 1 or more.

    Source: Cheng et al. 2021, "Boundary IoU", eq. 3; there for one mask, here for the classes of a set.
    """

    pixels: Tensor

    def __init__(self, num_classes: int, distance: float = DISTANCE) -> None:
        super().__init__()
        self.num_classes, self.distance = num_classes, distance
        self.add_sum("pixels", 3, num_classes)  # in both bands, in the labels', in the prediction's

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add one image: class indices (H, W), 255 being none, and labels (H, W), of its original size."""
        truth, guess = (ids.to("cpu", torch.uint8).numpy() for ids in (labels, prediction))
        guess = np.where(truth == IGNORE, np.uint8(IGNORE), guess)
        reach = max(1, round(self.distance * math.hypot(*truth.shape)))
        true_band = near_boundary(truth, reach) & (truth != IGNORE)
        guess_band = near_boundary(guess, reach) & (guess != IGNORE)
        both = true_band & guess_band & (truth == guess)
        bands = (truth[both], truth[true_band], guess[guess_band])
        counts = np.stack([np.bincount(band, minlength=self.num_classes) for band in bands])
        self.pixels += torch.from_numpy(counts).to(self.pixels.device)

    def iou(self) -> Tensor:
        """Boundary IoU of every class, (N,) float64, NaN where a class has no boundary."""
        both, labelled, predicted = self.pixels.double()
        return both / (labelled + predicted - both)


def near_boundary(labels: np.ndarray, reach: int) -> np.ndarray:
    """Mark the pixels whose square of side 2*reach + 1 holds another label or leaves the image.

    A square holds one label if its largest is its smallest, which serves all classes at once.

    Args:
        labels: (H, W) uint8.
        reach: In pixels, 1 or more.

    Returns:
        (H, W) bool.
    """
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    marked = cv2.dilate(labels, square) != cv2.erode(labels, square)
    marked[:reach] = marked[-reach:] = True
    marked[:, :reach] = marked[:, -reach:] = True
    return marked
