"""Effective dilation: how far apart a deformable layer reads, as in the paper's table 2."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from segdcn.errors import UserValueError
from segdcn.object_sizes import LIMITS, NAMES, size_of
from segdcn.offsets.fields import SamplingField
from segdcn.offsets.objects import Region, regions
from segdcn.offsets.points import output_pixels


def effective_dilation(field: SamplingField) -> Tensor:
    """Compute the mean distance of adjacent sampling points, (G, Ho, Wo).

    Adjacent are taps beside or below each other in the kernel: 12 pairs for 3x3. In pixels of the
    layer's input, so that without offsets it is the layer's dilation; NaN for 1x1 kernels.

    Source: Dai et al. 2017, section 4.2.
    """
    grid = field.positions.unflatten(1, field.kernel_size)  # (G, kh, kw, 2, Ho, Wo)
    pairs = [vector_norm(grid.diff(dim=axis), dim=3).flatten(1, 2) for axis in (1, 2)]
    return torch.cat(pairs, dim=1).mean(dim=1)


class EffectiveDilation:
    """Effective dilation at the centres of objects and background, collected over many images.

    Args:
        sizes: Areas in image pixels at which an object becomes medium, and large. The paper's are 96^2
            and 224^2, on images whose shorter side is 600.
        background: The class that is no object, for images without instance map; None if all are.

    Attributes:
        layers: Names of the layers, once there was an image.
        rows: (class, area, is background, one value per layer) of each region, plain numbers, so
            that processes can exchange them.
    """

    def __init__(self, sizes: tuple[int, int] = LIMITS, background: int | None = 0) -> None:
        if not 0 < sizes[0] < sizes[1]:
            raise UserValueError(f"sizes is {list(sizes)}; expected two areas in pixels, the smaller first")
        self.sizes, self.background = sizes, background
        self.layers: list[str] = []
        self.rows: list[tuple[int, int, bool, list[float]]] = []

    def add(self, fields: Sequence[SamplingField], labels: np.ndarray, instances: np.ndarray | None = None) -> None:
        """Ask every layer at the centre of every region of an image; offset groups are averaged.

        Args:
            fields: What `record` returned for the image.
            labels: Class indices (H, W), 255 where there is none.
            instances: 0 where there is no object, another number for each (H, W).
        """
        self.ask(fields, self.find(labels, instances))

    def find(self, labels: np.ndarray, instances: np.ndarray | None = None) -> list[Region]:
        """Find the regions of an image, as `add` does; they stay the same while a network learns."""
        return regions(labels, instances, self.background)

    def ask(self, fields: Sequence[SamplingField], found: Sequence[Region]) -> None:
        """Ask every layer at the centre of every region that `find` found."""
        self.layers = [field.name for field in fields]
        y, x = (torch.tensor([getattr(region, axis) for region in found]) for axis in "yx")
        dilations = [effective_dilation(field).mean(dim=0)[output_pixels(field, y, x)] for field in fields]
        for region, values in zip(found, torch.stack(dilations, dim=1).tolist(), strict=True):
            self.rows.append((region.label, region.area, region.background, values))

    def by_size(self) -> dict[str, Tensor]:
        """Return the values (M, layers) of small, medium and large objects and of background."""
        return {
            name: self._values([self._size(area, background) == name for _, area, background, _ in self.rows])
            for name in (*NAMES, "background")
        }

    def by_class(self, class_names: Sequence[str]) -> dict[str, Tensor]:
        """Return the values (M, layers) of each class."""
        return {
            name: self._values([label == index for label, *_ in self.rows]) for index, name in enumerate(class_names)
        }

    def _size(self, area: int, background: bool) -> str:
        return "background" if background else NAMES[size_of(area, self.sizes)]

    def _values(self, chosen: Sequence[bool]) -> Tensor:
        picked = [row[3] for row, keep in zip(self.rows, chosen, strict=True) if keep]
        return torch.tensor(picked, dtype=torch.float64).reshape(-1, len(self.layers))
