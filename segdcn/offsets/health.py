"""Whether offsets learn, and whether they learn too much."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.linalg import vector_norm

from segdcn.offsets.fields import SamplingField

# A modulation below this share of its range, or above one minus it, has almost no gradient left.
SATURATED = 0.05


@dataclass(frozen=True)
class Health:
    """How one deformable layer's offsets are, over all its reads.

    Attributes:
        mean: Mean length of the offsets, in units of the layer's dilation.
        p95: Length below which 95 % of them stay, likewise.
        outside: Share of the reads that lie wholly outside the layer's input, and so are 0. A
            fresh layer has some already, those of its padding.
        saturated: Share of the modulations within 5 % of their range from its ends; None
            without modulation.
        finite: No offset and no modulation is infinite or NaN; if not, the others are NaN.
    """

    mean: float
    p95: float
    outside: float
    saturated: float | None
    finite: bool


def health(fields: Sequence[SamplingField]) -> Health:
    """Measure one layer's fields of one or more images."""
    offset = torch.cat([field.offset.flatten(3) for field in fields], dim=3)  # (G, K, 2, P)
    modulation = torch.cat([field.modulation.flatten() for field in fields])
    modulated = fields[0].modulated
    if not (offset.isfinite().all() and modulation.isfinite().all()):
        nan = float("nan")
        return Health(nan, nan, nan, nan if modulated else None, finite=False)
    lengths = vector_norm(offset / torch.tensor(fields[0].dilation)[:, None], dim=2).flatten()
    outside = torch.cat([_outside(field).flatten() for field in fields])
    # Modulation lies in (0, 2).
    saturated = (modulation < 2 * SATURATED) | (modulation > 2 * (1 - SATURATED))
    rank = min(len(lengths), int(0.95 * len(lengths)) + 1)  # kthvalue, since quantile takes 16 million values at most
    return Health(
        mean=float(lengths.mean()),
        p95=float(lengths.kthvalue(rank).values),
        outside=float(outside.float().mean()),
        saturated=float(saturated.float().mean()) if modulated else None,
        finite=True,
    )


def _outside(field: SamplingField) -> torch.Tensor:
    y, x = field.positions.unbind(dim=2)
    height, width = field.input_size
    return (y <= -1) | (y >= height) | (x <= -1) | (x >= width)
