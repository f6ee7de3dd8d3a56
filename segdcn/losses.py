"""What training minimises: one number from logits and labels.

Every loss takes logits (B, N, H, W) and labels (B, H, W) int64, ignores the label 255, computes in
float32 or better whatever autocast says, and is 0 with zero gradients where every pixel is ignored:
one unlucky crop must not end a run by NaN.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segdcn.errors import UserValueError

IGNORE = 255  # the label of pixels that count for nothing, in every data set


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Average the cross entropy over the pixels that have a class.

    The sum over the pixels with a class, divided by their number, or by the sum of their
    weights.

    Args:
        logits: (B, N, H, W).
        labels: (B, H, W) int64; 255 is ignored.
        class_weights: (N,); how much a pixel counts, by its class.
        label_smoothing: Share of each label that is spread over all classes, 0 to 1.

    Returns:
        A scalar connected to `logits`, in nats per pixel.
    """
    logits = _exact(logits)
    class_weights = None if class_weights is None else class_weights.to(logits)
    # On a GPU torch adds up the pixels of maps in any order, and refuses to where a fixed one is asked for.
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(
        logits, labels, class_weights, ignore_index=IGNORE, reduction=reduction, label_smoothing=label_smoothing
    ).sum()
    counted = labels != IGNORE
    if class_weights is None:
        return total / counted.sum().clamp(min=1)
    weight = (class_weights[labels.where(counted, 0)] * counted).sum()
    return total / weight.where(weight > 0, 1)


def ohem(logits: Tensor, labels: Tensor, threshold: float = 0.7, min_kept: float = 1 / 16) -> Tensor:
    """Average the cross entropy over the hard pixels only (online hard example mining).

    Hard is a pixel whose own class has a probability below `threshold`; where those are fewer than
    the share `min_kept` of the pixels with a class, the hardest of that share.

    Source: Shrivastava et al. 2016, as used for segmentation since.
    """
    each = F.cross_entropy(_exact(logits), labels, ignore_index=IGNORE, reduction="none").flatten()
    counted = (labels != IGNORE).flatten()
    hardness = each.detach().where(counted, -1)
    kept = (counted.sum() * min_kept).ceil().long()
    ranked = hardness.sort(descending=True).values
    # At least the first `kept` of the ranking: down to the loss of the last of them.
    least = ranked[(kept - 1).clamp(min=0)]
    hard = counted & (hardness >= torch.minimum(least, -each.new_tensor(threshold).log()))
    return (each * hard).sum() / hard.sum().clamp(min=1)


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """Average (1 - p)^gamma * -log p over the pixels that have a class, p being its probability.

    Source: Lin et al. 2017, eq. 4, with the softmax over classes in place of a sigmoid.
    """
    log_p = -F.cross_entropy(_exact(logits), labels, ignore_index=IGNORE, reduction="none")
    counted = labels != IGNORE
    each = (1 - log_p.exp()).clamp(min=0) ** gamma * -log_p
    return (each * counted).sum() / counted.sum().clamp(min=1)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Average 1 - 2 * sum(p * y) / (sum(p) + sum(y)) over the classes that the batch's labels hold.

    Source: Milletari et al. 2016, with plain sums and over all pixels of the batch.
    """
    p, y = _probabilities_and_truth(logits, labels)
    overlap, total = (p * y).sum((0, 2, 3)), (p + y).sum((0, 2, 3))
    return _mean_over_present(1 - 2 * overlap / total.clamp(min=1e-12), y)


def lovasz(logits: Tensor, labels: Tensor) -> Tensor:
    """Minimise the Lovasz extension of 1 - IoU, over the batch, for the classes that its labels hold.

    Source: Berman et al. 2018; computed by segmentation_models_pytorch.
    """
    from segmentation_models_pytorch.losses import MULTICLASS_MODE, LovaszLoss

    if not (labels != IGNORE).any():
        return _exact(logits).sum() * 0
    return LovaszLoss(MULTICLASS_MODE, ignore_index=IGNORE)(_exact(logits), labels)


def boundary(logits: Tensor, labels: Tensor, tolerance: int = 2) -> Tensor:
    """Average 1 - F1 of class boundaries over the classes that the batch's labels hold.

    A boundary pixel counts as found where the other map has one at most `tolerance` pixels away;
    boundaries against ignored pixels count for nothing.

    Source: Bokhovkin & Burnaev 2019.
    """
    p, y = _probabilities_and_truth(logits, labels)
    beside_ignored = _widened((labels == IGNORE)[:, None].to(p), 1)
    inside = 1 - beside_ignored
    edges_p = (_widened(1 - p, 1) - (1 - p)) * inside
    edges_y = (_widened(1 - y, 1) - (1 - y)) * inside
    sums = (0, 2, 3)
    precision = (edges_p * _widened(edges_y, tolerance)).sum(sums) / edges_p.sum(sums).clamp(min=1e-7)
    recall = (edges_y * _widened(edges_p, tolerance)).sum(sums) / edges_y.sum(sums).clamp(min=1e-7)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-7)
    # A class without boundaries (one class everywhere) has nothing to find.
    return _mean_over_present(1 - f1, edges_y)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "ohem": ohem,
    "focal": focal,
    "dice": dice,
    "lovasz": lovasz,
    "boundary": boundary,
}


class WeightedLoss:
    """A weighted sum of losses.

    Args:
        weights: Weight of each loss by its name in LOSSES.
        class_weights: (N,), for cross_entropy: how much a pixel counts, by its class.
        label_smoothing: For cross_entropy: share of each label that is spread over all classes.

    Raises:
        UserValueError: No such loss, or a weight is not positive.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        for name, weight in weights.items():
            if name not in LOSSES:
                raise UserValueError(f"model.loss has {name!r}; expected some of {', '.join(LOSSES)}")
            if not weight > 0:
                raise UserValueError(
                    f"model.loss.{name} is {weight}; expected a positive weight (leave it out for none)"
                )
        if not weights:
            raise UserValueError(f"model.loss names no loss; expected some of {', '.join(LOSSES)}")
        if not 0 <= label_smoothing < 1:
            raise UserValueError(f"model.label_smoothing is {label_smoothing}; expected a share from 0 to below 1")
        if "cross_entropy" not in weights and (class_weights is not None or label_smoothing > 0):
            raise UserValueError("model.class_weights and model.label_smoothing are for the loss cross_entropy; add it")
        if class_weights is not None and not (min(class_weights) >= 0 and max(class_weights) > 0):
            raise UserValueError(
                f"model.class_weights is {list(class_weights)}; expected numbers of 0 or more, not all 0"
            )
        self.weights = dict(weights)
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum, a scalar."""
        total = _exact(logits).new_zeros(())
        for name, weight in self.weights.items():
            if name == "cross_entropy":
                loss = cross_entropy(logits, labels, self.class_weights, self.label_smoothing)
            else:
                loss = LOSSES[name](logits, labels)
            total = total + weight * loss
        return total


def _exact(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _probabilities_and_truth(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax and one-hot labels, both (B, N, H, W), both 0 at ignored pixels."""
    counted = (labels != IGNORE)[:, None]
    p = _exact(logits).softmax(1) * counted
    truth = F.one_hot(labels.where(counted[:, 0], 0), logits.shape[1]).movedim(-1, 1).to(p)
    return p, truth * counted


def _mean_over_present(each: Tensor, y: Tensor) -> Tensor:
    """Average a number per class (N,) over the classes of which `y` holds something."""
    present = y.sum((0, 2, 3)) > 0
    return (each * present).sum() / present.sum().clamp(min=1)


def _widened(map: Tensor, by: int) -> Tensor:
    """Spread each pixel's value to its neighbours, `by` pixels far, where it is the largest."""
    return F.max_pool2d(map, 2 * by + 1, stride=1, padding=by)
