"""RoI poolings that learn where to read."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdcn.errors import UserValueError
from segdcn.ops import autocast, deform_psroi_pool, deform_roi_pool
from segdcn.ops.roi_pool import bins, count, number

Boxes = Tensor | Sequence[Tensor]


def as_rois(boxes: Boxes) -> Tensor:
    """Turn what detection models hand to a RoI pooler into regions (R, 5): index of the image, x1, y1, x2, y2.

    Half-precision boxes become float32: float16 knows no area of 300x300, bfloat16 not the image number 257.

    Args:
        boxes: One (n, 4) tensor per image, or already (R, 5).

    Raises:
        UserValueError: It is neither; a ValueError.
    """
    if isinstance(boxes, Tensor):
        if boxes.dim() != 2 or boxes.shape[1] != 5:
            raise UserValueError(f"boxes has shape {tuple(boxes.shape)}, but must be (R, 5), or one (n, 4) per image")
        return _exact(boxes)
    if not isinstance(boxes, (list, tuple)) or not all(isinstance(box, Tensor) for box in boxes):
        raise UserValueError(f"boxes is a {type(boxes).__name__}, but must be a list of tensors, or one tensor (R, 5)")
    if not boxes or any(box.dim() != 2 or box.shape[1] != 4 for box in boxes):
        shapes = [tuple(box.shape) for box in boxes]
        raise UserValueError(f"boxes have shapes {shapes}, but must be one (n, 4) tensor per image, or (R, 5)")
    return torch.cat([F.pad(_exact(box), (1, 0), value=float(i)) for i, box in enumerate(boxes)])


def _exact(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype == torch.float64 else boxes.float()


class DeformableRoIPool(nn.Module):
    """RoI pooling whose bins move to where the region's own features say.

        pooled   = deform_roi_pool(input, rois, None)          plain pooling
        offset   = offset_fc(pooled)                           x, then y per bin
        output   = deform_roi_pool(input, rois, offset)

    The last layer of `offset_fc` starts at zero, so a fresh layer is plain pooling, which is
    torchvision's roi_align(aligned=True). That last layer computes in float32 also under autocast.

    Args:
        channels: Channels C of the input.
        output_size: Bins; int or (height, width).
        spatial_scale: Pixels of the map per unit of the boxes.
        sampling_ratio: Samples of a bin along each axis; 0 for one per pixel.
        gamma: What an offset of 1 moves a bin by, as a part of the region's size.
        hidden: Width of the two hidden layers.

    Shape:
        input (B, C, H, W), boxes (R, 5) or one (n, 4) per image -> (R, C, output height, output width).

    Raises:
        UserValueError: A number is out of its range, or boxes or input have another shape.

    Source: Dai et al. 2017, section 2.2; mmcv's DeformRoIPoolPack.
    """

    def __init__(
        self,
        channels: int,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        *,
        gamma: float = 0.1,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.output_size = tuple(bins(output_size))
        self.spatial_scale = number("spatial_scale", spatial_scale, positive=True)
        self.sampling_ratio, self.gamma = count("sampling_ratio", sampling_ratio, 0), number("gamma", gamma)
        self.channels, self.hidden = count("channels", channels, 1), count("hidden", hidden, 1)
        self.offset_fc = self._predictor(2)

    def _predictor(self, fields: int) -> nn.Sequential:
        """Make fully connected layers that give `fields` numbers per bin, zero at the start."""
        num_bins = self.output_size[0] * self.output_size[1]
        last = nn.Linear(self.hidden, fields * num_bins)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = [
            nn.Linear(self.channels * num_bins, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, self.hidden),
            nn.ReLU(),
        ]
        return nn.Sequential(*first, last)

    def _predict(self, predictor: nn.Sequential, pooled: Tensor) -> Tensor:
        """Return (R, fields, output height, output width) in float32, or float64 for float64."""
        features = predictor[:-1](pooled.flatten(1))
        last = predictor[-1]
        assert isinstance(last, nn.Linear)
        exact = torch.float64 if features.dtype == torch.float64 else torch.float32
        with autocast.off(features.device):
            fields = F.linear(features.to(exact), last.weight.to(exact), last.bias.to(exact))
        return fields.unflatten(1, (-1, *self.output_size))

    def pool(self, input: Tensor, rois: Tensor, offset: Tensor | None, spatial_scale: float) -> Tensor:
        """Pool with the layer's settings, but for the scale."""
        if input.dim() == 4 and input.shape[1] != self.channels:
            raise UserValueError(f"input has {input.shape[1]} channels, but the layer was made for {self.channels}")
        size = (self.output_size[0], self.output_size[1])
        return deform_roi_pool(input, rois, offset, size, spatial_scale, self.sampling_ratio, self.gamma)

    def predict_offsets(self, input: Tensor, boxes: Boxes, spatial_scale: float | None = None) -> Tensor:
        """Predict where each bin moves: (R, 2, output height, output width), x first, in parts of gamma * size."""
        scale = self.spatial_scale if spatial_scale is None else spatial_scale
        return self._predict(self.offset_fc, self.pool(input, as_rois(boxes), None, scale))

    def forward(self, input: Tensor, boxes: Boxes, spatial_scale: float | None = None) -> Tensor:
        """Predict offsets, then pool with them; `spatial_scale` in place of the layer's own."""
        scale, rois = self.spatial_scale if spatial_scale is None else spatial_scale, as_rois(boxes)
        offset = self.predict_offsets(input, rois, scale)
        return self.pool(input, rois, offset, scale)

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"channels={self.channels}, output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, gamma={self.gamma}"
        )


class ModulatedDeformableRoIPool(DeformableRoIPool):
    """Deformable RoI pooling that also predicts a factor for each bin.

        mask     = 2 * sigmoid(mask_fc(pooled))                in (0, 2)
        output   = mask * deform_roi_pool(input, rois, offset)

    A fresh layer is plain pooling.

    Args:
        channels: As DeformableRoIPool takes it.
        output_size: Likewise.
        spatial_scale: Likewise.
        sampling_ratio: Likewise.
        gamma: Likewise.
        hidden: Likewise, for the layers of offsets and for those of factors.

    Shape:
        input (B, C, H, W), boxes (R, 5) or one (n, 4) per image -> (R, C, output height, output width).

    Raises:
        UserValueError: A number is out of its range, or boxes or input have another shape.

    Source: Zhu et al. 2018, eq. 2. The factor 2, with which a fresh layer is plain pooling rather
    than half of it, is not in the paper.
    """

    def __init__(
        self,
        channels: int,
        output_size: int | tuple[int, int],
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        *,
        gamma: float = 0.1,
        hidden: int = 1024,
    ) -> None:
        super().__init__(channels, output_size, spatial_scale, sampling_ratio, gamma=gamma, hidden=hidden)
        self.mask_fc = self._predictor(1)

    def forward(self, input: Tensor, boxes: Boxes, spatial_scale: float | None = None) -> Tensor:
        """Predict offsets and factors, then pool with them."""
        scale, rois = self.spatial_scale if spatial_scale is None else spatial_scale, as_rois(boxes)
        plain = self.pool(input, rois, None, scale)
        output = self.pool(input, rois, self._predict(self.offset_fc, plain), scale)
        return output * (2 * self._predict(self.mask_fc, plain).sigmoid()).to(output.dtype)


class DeformablePSRoIPool(nn.Module):
    """Position-sensitive RoI pooling of score maps, with offsets from a convolution beside the one of the scores.

        scores   = score_conv(input)                           output_dim for each of k*k groups
        fields   = offset_conv(input)                          2 * classes for each of k*k groups
        offset   = deform_psroi_pool(fields, rois)             x, then y per class and bin
        output   = deform_psroi_pool(scores, rois, offset)

    `offset_conv` starts at zero, so a fresh layer is plain PS-RoI pooling of its scores; it computes in float32 also
    under autocast.

    Args:
        in_channels: Channels C of the input.
        output_dim: Channels of the result: classes and background, or 4 box coordinates.
        group_size: k, bins and groups along each axis.
        classes: Sets of offsets; the output channels are divided evenly among them.
        samples_per_part: Samples of a bin along each axis.
        trans_std: What an offset of 1 moves a bin by, as a part of the region's size.
        spatial_scale: Pixels of the map per unit of the boxes.

    Shape:
        input (B, C, H, W), boxes (R, 5) or one (n, 4) per image -> (R, output_dim, k, k).

    Raises:
        UserValueError: The output channels cannot be divided among the classes.

    Source: Dai et al. 2017, section 2.2 and figure 4.
    """

    def __init__(
        self,
        in_channels: int,
        output_dim: int,
        group_size: int,
        *,
        classes: int = 1,
        samples_per_part: int = 4,
        trans_std: float = 0.1,
        spatial_scale: float = 1.0,
    ) -> None:
        super().__init__()
        output_dim, group_size = count("output_dim", output_dim, 1), count("group_size", group_size, 1)
        if count("classes", classes, 1) and output_dim % classes != 0:
            raise UserValueError(f"classes is {classes}, but must divide output_dim, which is {output_dim}")
        self.output_dim, self.group_size, self.classes = output_dim, group_size, classes
        self.samples_per_part = count("samples_per_part", samples_per_part, 1)
        self.trans_std = number("trans_std", trans_std)
        self.spatial_scale = number("spatial_scale", spatial_scale, positive=True)
        self.score_conv = nn.Conv2d(in_channels, output_dim * group_size**2, 1)
        self.offset_conv = nn.Conv2d(in_channels, 2 * classes * group_size**2, 1)
        nn.init.zeros_(self.offset_conv.weight)
        assert self.offset_conv.bias is not None
        nn.init.zeros_(self.offset_conv.bias)

    def pool(self, maps: Tensor, rois: Tensor, offset: Tensor | None, output_dim: int) -> Tensor:
        """Pool maps of output_dim channels per group with the layer's settings."""
        return deform_psroi_pool(
            maps,
            rois,
            offset,
            output_dim=output_dim,
            group_size=self.group_size,
            samples_per_part=self.samples_per_part,
            trans_std=self.trans_std,
            spatial_scale=self.spatial_scale,
        )

    def predict_offsets(self, input: Tensor, boxes: Boxes) -> Tensor:
        """Predict where each bin of each class moves: (R, 2 * classes, k, k), in parts of trans_std * size."""
        conv, exact = self.offset_conv, torch.float64 if input.dtype == torch.float64 else torch.float32
        assert conv.bias is not None
        with autocast.off(input.device):
            fields = F.conv2d(input.to(exact), conv.weight.to(exact), conv.bias.to(exact))
            return self.pool(fields, as_rois(boxes), None, 2 * self.classes)

    def forward(self, input: Tensor, boxes: Boxes) -> Tensor:
        """Compute scores and offsets, then pool the one with the other."""
        rois = as_rois(boxes)
        return self.pool(self.score_conv(input), rois, self.predict_offsets(input, rois), self.output_dim)

    def extra_repr(self) -> str:
        """Show the settings that the convolutions do not."""
        return (
            f"output_dim={self.output_dim}, group_size={self.group_size}, classes={self.classes}, "
            f"samples_per_part={self.samples_per_part}, trans_std={self.trans_std}, spatial_scale={self.spatial_scale}"
        )


class MultiScaleDeformableRoIPool(nn.Module):
    """A deformable RoI pooling on the levels of a feature pyramid, called as torchvision's MultiScaleRoIAlign is.

        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        layer = DeformableRoIPool(256, 7, sampling_ratio=2)
        model.roi_heads.box_roi_pool = MultiScaleDeformableRoIPool(layer, ["0", "1", "2", "3"])

    A box of 224 pixels reads level 4 (stride 16); twice the size, one level further up. All levels share the layer.

    MultiScaleRoIAlign reads half a pixel further down and to the right on each level (`aligned=False`), so a
    detector that was trained with it gives other results when this takes its place: train on.

    Args:
        layer: DeformableRoIPool or ModulatedDeformableRoIPool; its spatial_scale is not used.
        featmap_names: The pyramid's levels to read; names that it does not have are passed over.
        canonical_scale: Size of a box, in pixels, that reads the canonical level.
        canonical_level: That level; level n has stride 2**n.

    Raises:
        UserValueError: The layer is of another class, or the pyramid has none of the levels.

    Source: Lin et al. 2017, eq. 1.
    """

    def __init__(
        self,
        layer: DeformableRoIPool,
        featmap_names: Sequence[str],
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        if not isinstance(layer, DeformableRoIPool):
            raise UserValueError(
                f"layer is a {type(layer).__name__}, but must be a DeformableRoIPool or ModulatedDeformableRoIPool"
            )
        self.layer, self.featmap_names = layer, list(featmap_names)
        self.canonical_scale, self.canonical_level = canonical_scale, canonical_level

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Pool each box from its level: features, boxes and sizes (height, width) of the images -> (R, C, ...)."""
        maps = [features for name, features in x.items() if name in self.featmap_names]
        if not maps:
            raise UserValueError(
                f"the pyramid has the levels {list(x)}, but none of featmap_names {self.featmap_names}"
            )
        maps.sort(key=lambda features: -max(features.shape[2:]))  # finest first
        longest = max(max(shape) for shape in image_shapes)
        # Strides are powers of two, but padded sizes are not exact multiples of them.
        strides = [round(torch.tensor(longest / max(m.shape[2:])).log2().item()) for m in maps]
        rois = as_rois(boxes)
        size = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp_min(0).sqrt()
        level = (self.canonical_level + (size / self.canonical_scale).log2() + 1e-6).floor()
        level = level.clamp(strides[0], strides[-1])
        output: Tensor | None = None
        for stride, features in zip(strides, maps, strict=True):
            which = (level == stride).nonzero()[:, 0]
            pooled = self.layer(features, rois[which], 2.0**-stride)
            if output is None:
                output = pooled.new_zeros(len(rois), *pooled.shape[1:])
            output = output.index_copy(0, which, pooled)
        assert output is not None
        return output
