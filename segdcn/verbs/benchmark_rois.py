"""What `segdcn benchmark ops --operator deform_roi_pool | deform_psroi_pool` times."""

from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch

from segdcn.errors import UserValueError
from segdcn.ops import deform_psroi_pool, deform_roi_pool, roi_reference

# (B, C, H, W, R, samples), 7x7 bins: a pyramid's level of stride 8 with the regions of training, the same with few
# regions, and a small map.
SIZES = ["2,256,100,152,512,2", "2,256,100,152,8,2", "1,64,32,32,16,2"]
# Position-sensitive: C is the number of output channels, for each of 7x7 groups.
PS_SIZES = ["2,21,50,76,256,4", "1,8,25,38,32,2"]
BINS, SCALE = 7, 1 / 8


@dataclass(frozen=True)
class RoiSize:
    """One pooling of 7x7 bins with random offsets."""

    batch: int
    channels: int
    height: int
    width: int
    regions: int
    samples: int

    def __str__(self) -> str:
        """Write it as parse reads it."""
        return ",".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text: str) -> "RoiSize":
        """Read B,C,H,W,R,samples."""
        parts = text.replace(" ", "").split(",")
        if len(parts) != 6 or not all(part.isdecimal() and 0 < int(part) < 1 << 20 for part in parts):
            raise UserValueError(
                f"size {text!r} is not B,C,H,W,R,samples: six numbers from 1 to a million, such as {SIZES[0]}"
            )
        return cls(*map(int, parts))


def candidates(
    operator: str, size: RoiSize, dtype: torch.dtype, device: torch.device, backward: bool
) -> dict[str, Callable[[], object]]:
    """Prepare the same pooling for each candidate; torchvision's has no offsets, and is timed without them."""
    import torchvision

    generator = torch.Generator().manual_seed(0)
    aligned = operator == "deform_roi_pool"
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    channels = size.channels if aligned else size.channels * BINS**2
    input = torch.randn(size.batch, channels, size.height, size.width, generator=generator).to(device, dtype)
    span = torch.tensor([size.width, size.height]) / SCALE
    corner = torch.rand(size.regions, 2, generator=generator) * 0.7 * span
    end = torch.minimum(corner + torch.rand(size.regions, 2, generator=generator) * 0.3 * span + 8, span)
    images = torch.randint(size.batch, (size.regions, 1), generator=generator)
    rois = torch.cat([images, corner, end], dim=1).to(device, exact)
    offset = (0.1 * torch.randn(size.regions, 2, BINS, BINS, generator=generator)).to(device, exact)
    grad = torch.randn(size.regions, size.channels, BINS, BINS, generator=generator).to(device, dtype)
    settings = {"output_dim": size.channels, "group_size": BINS, "samples_per_part": size.samples}
    ps = {**settings, "spatial_scale": SCALE}

    def step(function: Callable[..., torch.Tensor], leaves: list[torch.Tensor]) -> object:
        if not backward:
            with torch.no_grad():
                return function(*leaves)
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        output = function(*leaves)
        return output.detach(), *torch.autograd.grad(output, leaves, grad.to(output.dtype))

    def ours(x: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        if aligned:
            return deform_roi_pool(x, rois, o, BINS, SCALE, size.samples)
        return deform_psroi_pool(x, rois, o, **ps)  # type: ignore[arg-type]

    def definition(x: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        if aligned:
            return roi_reference.deform_roi_pool(x, rois, o, BINS, SCALE, size.samples)
        return roi_reference.deform_psroi_pool(x, rois, o, **ps)  # type: ignore[arg-type]

    def torchvisions(x: torch.Tensor) -> torch.Tensor:
        if aligned:
            return torchvision.ops.roi_align(x, rois.to(dtype), BINS, SCALE, size.samples, aligned=True)
        return torchvision.ops.ps_roi_align(x, rois.to(dtype), BINS, SCALE, size.samples)

    found: dict[str, Callable[[], object]] = {"segdcn": lambda: step(ours, [input, offset])}
    if dtype in (torch.float32, torch.float64) or (device.type == "cuda" and dtype == torch.float16):
        found["torchvision"] = lambda: step(torchvisions, [input])
    found["reference"] = lambda: step(definition, [input.to(exact), offset])
    return found
