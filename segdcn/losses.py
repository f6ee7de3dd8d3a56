"""What training minimises: one number from logits and labels."""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255  # the label of pixels that count for nothing, in every data set


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Average the cross entropy over the pixels that have a class.

    The sum over the pixels with a class, divided by their number. Where every pixel is
    ignored the number is taken as 1: the loss is 0 and so are its gradients, while
    `F.cross_entropy` would give NaN and end the run by one unlucky crop.

    Args:
        logits: (B, N, H, W). Computed in float32 or better, whatever autocast says.
        labels: (B, H, W) int64; 255 is ignored.

    Returns:
        A scalar connected to `logits`, in nats per pixel.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)
