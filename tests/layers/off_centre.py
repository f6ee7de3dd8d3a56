"""A small problem that a RoI pooling can only solve by moving its bins: objects off the centre of their boxes.

An image holds one bright blob of random height and width. The box that comes with it is displaced: the blob lies a
quarter of the box's size away from its centre, in a random direction. What has to be regressed is the height of the
blob, from the mean of four bins around the centre: unless they move to its peak they see a flank, which a low wide
blob and a high narrow one share.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segdcn.layers import DeformableRoIPool

SIZE, BOX, SHIFT, GAMMA = 48, 20.0, 0.25, 0.1


@dataclass
class Batch:
    """Images (B, 1, SIZE, SIZE), one region each (B, 5); its blob's height (B,) and centre (B, 2), x first."""

    images: Tensor
    rois: Tensor
    heights: Tensor
    centres: Tensor


def draw(count: int, generator: torch.Generator) -> Batch:
    """Draw images, their displaced boxes, and blobs."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    corner, angle = uniform(6, SIZE - BOX - 6, 2), uniform(0, 6.2832)
    centres = corner + BOX / 2 + BOX * SHIFT * torch.stack([angle.cos(), angle.sin()], dim=1)
    heights, widths = uniform(0.5, 1.5), uniform(2.5, 5)
    grid = torch.arange(SIZE) + 0.5
    x, y = grid - centres[:, :1], grid - centres[:, 1:]
    blobs = torch.exp(-(y[:, :, None] ** 2 + x[:, None, :] ** 2) / (2 * widths[:, None, None] ** 2))
    images = heights[:, None, None] * blobs + 0.02 * torch.randn(count, SIZE, SIZE, generator=generator)
    rois = torch.cat([torch.arange(float(count))[:, None], corner, corner + BOX], dim=1)
    return Batch(images[:, None], rois, heights, centres)


class Regressor(nn.Module):
    """The height of a blob, from the mean of the four middle bins of a 4x4 pooling, each of which may move."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = DeformableRoIPool(1, 4, sampling_ratio=2, gamma=GAMMA, hidden=32)
        self.read = nn.Linear(1, 1)
        nn.init.ones_(self.read.weight)  # what is read is the height, once it is read in the right place
        nn.init.zeros_(self.read.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Pool with predicted offsets, then read the height off the middle bins linearly."""
        pooled = self.pool(batch.images, batch.rois)
        return self.read(pooled[:, :, 1:3, 1:3].mean((2, 3)))[:, 0]

    def bins(self, batch: Batch) -> Tensor:
        """Return the centres of the middle bins in pixels, (B, 4, 2), x first."""
        with torch.no_grad():
            offset = self.pool.predict_offsets(batch.images, batch.rois)[:, :, 1:3, 1:3]  # (B, 2, 2, 2)
        steps = (torch.arange(2) + 1.5) / 4
        still = torch.stack([steps.expand(2, 2), steps[:, None].expand(2, 2)])  # x, y
        places = batch.rois[:, 1:3, None, None] + BOX * (still + GAMMA * offset)
        return places.flatten(2).transpose(1, 2)

    def distance(self, batch: Batch) -> float:
        """How far the mean of the middle bins is from the blob, in parts of the box: SHIFT if they stay."""
        return float((self.bins(batch).mean(1) - batch.centres).norm(dim=1).mean() / BOX)


def train(steps: int, seed: int = 0, moves: bool = True) -> tuple[Regressor, list[float]]:
    """Train a regressor on fresh images, or one whose bins stay; return it, and its loss at every step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model, losses = Regressor(), []
    model.pool.requires_grad_(moves)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        batch = draw(64, generator)
        loss = (model(batch) - batch.heights).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return model, losses
