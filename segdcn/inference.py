"""From an image of any size to logits: sliding windows, several scales, mirrored."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from segdcn.errors import UserValueError

# Logits (B, N, H, W) of images (B, 3, H, W).
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Inference:
    """How a network is applied to images that are not what it was trained on in size.

    Called with a network and normalised images (B, 3, H, W), it returns logits (B, N, H, W):

    1. For every scale, the image is resized by it (bilinear), and once more mirrored if `flip`.
    2. Without a window, the network sees all of it, padded to what it takes. With one, it sees
       windows of that size, and their logits are blended (see `windows`).
    3. The logits are resized to H, W (bilinear) and mirrored back.
    4. With more than one view, the views' softmax probabilities are averaged, and their logarithm
       is returned: logits whose softmax is that average. One view's logits are returned as they are.

    All padding is 0, the mean colour of normalised images, at the bottom and on the right, and is
    cut off again. The largest memory is that of one view's logits at its own scale, one more at
    the original size and, with more than one view, the sum: never one per window or per view.

    Args:
        window: (height, width) of the window in pixels of the scaled image; None is the whole image.
        overlap: Share of a window that its neighbours cover too, at least, 0 to below 1.
        scales: Factors of the views.
        flip: Add the mirror image of every view.
        size_divisor: Sizes that the network takes are multiples of this.
        sums_on: `device`, where the network computes, or `cpu`: then a GPU holds one window at a
            time, however large the image is, and the result lies on the CPU.

    Raises:
        UserValueError: A setting is out of its range.
    """

    window: tuple[int, int] | None = None
    overlap: float = 1 / 3
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    size_divisor: int = 1
    sums_on: Literal["device", "cpu"] = "device"

    def __post_init__(self) -> None:
        if self.window is not None and (min(self.window) < 1 or any(side % self.size_divisor for side in self.window)):
            raise UserValueError(
                f"the window of evaluation is {list(self.window)}; expected [height, width], positive multiples of "
                f"{self.size_divisor}, which the network takes"
            )
        if not 0 <= self.overlap < 1:
            raise UserValueError(f"the overlap of evaluation is {self.overlap}; expected a share from 0 to below 1")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise UserValueError(
                f"the scales of evaluation are {list(self.scales)}; expected one or more positive factors"
            )

    @property
    def is_plain(self) -> bool:
        """Whether the network runs once on the whole image, as it is."""
        return self.window is None and tuple(self.scales) == (1.0,) and not self.flip

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], size_divisor: int) -> Self:
        """Read the settings `eval_*` of `SegmentationTask`; what is not there has its default.

        Raises:
            UserValueError: A setting is out of its range.
        """
        window, scales = settings.get("eval_window"), settings.get("eval_scales")
        pair = [window] * 2 if isinstance(window, int) else window
        if pair is not None and len(pair) != 2:
            raise UserValueError(f"the window of evaluation is {pair}; expected one number, or [height, width]")
        return cls(
            window=None if pair is None else (pair[0], pair[1]),
            overlap=settings.get("eval_overlap", cls.overlap),
            scales=cls.scales if scales is None else tuple(scales),
            flip=settings.get("eval_flip", cls.flip),
            size_divisor=size_divisor,
            sums_on=settings.get("eval_sums", cls.sums_on),
        )

    def __call__(self, network: Network, image: Tensor) -> Tensor:
        """Compute logits (B, N, H, W), float32 where views or windows were combined."""
        mirrored = (False, True) if self.flip else (False,)
        views = [(scale, mirror) for scale in self.scales for mirror in mirrored]
        if len(views) == 1:
            return self._view(network, image, *views[0])
        total: Tensor | None = None
        for view in views:
            probabilities = self._view(network, image, *view).float().softmax(1)
            total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        # The smallest number above 0, so that what is impossible in all views has a logit too.
        return total.div_(len(views)).clamp_(min=torch.finfo(total.dtype).tiny).log_()

    def _view(self, network: Network, image: Tensor, scale: float, mirror: bool) -> Tensor:
        """Compute logits (B, N, H, W) of one view."""
        height, width = image.shape[2:]
        seen = image.flip(3) if mirror else image
        if scale != 1:
            size = (max(1, round(scale * height)), max(1, round(scale * width)))
            seen = F.interpolate(seen, size, mode="bilinear", align_corners=False)
        logits = self._at_this_size(network, seen)
        if scale != 1:
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return logits.flip(3) if mirror else logits

    def _at_this_size(self, network: Network, image: Tensor) -> Tensor:
        height, width = image.shape[2:]
        if self.window is None:
            logits = network(
                _padded(image, _rounded_up(height, self.size_divisor), _rounded_up(width, self.size_divisor))
            )
            logits = logits if self.sums_on == "device" else logits.cpu()
        else:
            at_least = (max(height, self.window[0]), max(width, self.window[1]))
            logits = windows(network, _padded(image, *at_least), self.window, self.overlap, self.sums_on)
        return logits[:, :, :height, :width]


def windows(
    network: Network,
    image: Tensor,
    window: tuple[int, int],
    overlap: float,
    sums_on: Literal["device", "cpu"] = "device",
) -> Tensor:
    """Apply a network window by window and blend the logits.

    Windows lie on a grid; the last of a row or column is moved back into the image. Along each axis a
    window's weight rises evenly from its edges to its middle, and the weights at a pixel are scaled to
    sum to 1: from one window to the next the result fades over, without a seam, and what is
    near a window's edge, where the network sees little around it, counts least. One window alone
    has the weight 1.

    Args:
        network: Logits (B, N, h, w) of images (B, 3, h, w).
        image: (B, 3, H, W), no smaller than the window.
        window: (h, w).
        overlap: Share of a window that its neighbours cover too, at least.
        sums_on: Where the result is summed up: on the `device` of the logits, or the `cpu`.

    Returns:
        Logits (B, N, H, W) in float32.
    """
    size = tuple(image.shape[2:])
    rows = list(_starts_and_weights(size[0], window[0], overlap))
    columns = list(_starts_and_weights(size[1], window[1], overlap))
    blended: Tensor | None = None
    for top, row_weight in rows:
        for left, column_weight in columns:
            inside = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            logits = network(image[inside]).float()  # (B, N, h, w)
            logits = logits * (row_weight[:, None] * column_weight).to(logits.device)
            logits = logits if sums_on == "device" else logits.cpu()
            if blended is None:
                blended = logits.new_zeros((*logits.shape[:2], *size))
            blended[inside] += logits
    assert blended is not None
    return blended


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Give where windows start along an axis: as few as cover it, the last moved back to its end.

    Example:
        >>> window_starts(100, 40, 0.25)
        [0, 30, 60]
        >>> window_starts(90, 40, 0.25)
        [0, 30, 50]
    """
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, length - window, step), length - window]


def _starts_and_weights(length: int, window: int, overlap: float) -> Iterator[tuple[int, Tensor]]:
    """Give every window's start along an axis and its weights (window,), which sum to 1 at each pixel."""
    places = torch.arange(window) + 0.5
    ramp = torch.minimum(places, window - places)
    starts = window_starts(length, window, overlap)
    total = torch.zeros(length)
    for start in starts:
        total[start : start + window] += ramp
    for start in starts:
        yield start, ramp / total[start : start + window]


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    return F.pad(image, (0, width - image.shape[3], 0, height - image.shape[2]))


def _rounded_up(length: int, divisor: int) -> int:
    return -(-length // divisor) * divisor
