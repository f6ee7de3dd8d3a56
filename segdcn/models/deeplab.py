"""DeepLab networks: an encoder, a head that looks far around, and upsampling."""

from collections.abc import Sequence
from pathlib import Path

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3Decoder, DeepLabV3PlusDecoder
from torch import Tensor, nn

from segdcn.errors import UserValueError
from segdcn.models.auxiliary import AuxiliaryHead
from segdcn.models.encoder import build_encoder, make_deformable
from segdcn.models.weights import load_encoder

ARCHITECTURES = ("deeplab", "deeplabv3", "deeplabv3plus")


class LastFeature(nn.Module):
    """The paper's decoder: none. The head works on the encoder's last feature map."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the last feature map."""
        return features[-1]


class DeepLab(nn.Module):
    """Encoder, decoder and head in a row; parameters are named as in segmentation_models_pytorch.

    Args:
        encoder: Returns its feature maps, from the finest to the coarsest.
        decoder: Takes them, returns one.
        segmentation_head: Makes logits at the input's size of it.
        size_divisor: Height and width must be multiples of it.
        pools_image: The decoder normalises an image-wide average over the batch, which a
            batch of one does not allow in training.
        auxiliary_head: Makes logits of the third stage's features, in training only.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        segmentation_head: nn.Module,
        size_divisor: int,
        pools_image: bool,
        auxiliary_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.segmentation_head = segmentation_head
        self.size_divisor = size_divisor
        self.pools_image = pools_image
        self.auxiliary_head = auxiliary_head

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images (B, 3, H, W) to logits (B, N, H, W).

        In training a network with an auxiliary head gives that head's logits too: (logits,
        auxiliary logits). In evaluation the auxiliary head is not run.

        Raises:
            UserValueError: A size or a batch that the network cannot take.
        """
        self._check(image)
        features = self.encoder(image)
        logits = self.segmentation_head(self.decoder(features))
        if self.training and self.auxiliary_head is not None:
            return logits, self.auxiliary_head(features[-2])
        return logits

    def _check(self, image: Tensor) -> None:
        if image.dim() != 4 or image.shape[1] != 3:
            raise UserValueError(f"the images have shape {tuple(image.shape)}, but must be (B, 3, height, width)")
        batch, _, height, width = image.shape
        divisor = self.size_divisor
        if height % divisor != 0 or width % divisor != 0 or height == 0 or width == 0:
            fitting = [max(1, round(size / divisor)) * divisor for size in (height, width)]
            raise UserValueError(
                f"the images are {height}x{width} (height x width), but this network needs multiples of {divisor}: "
                f"use {fitting[0]}x{fitting[1]} (data.crop_size in training, data.size_divisor in evaluation)"
            )
        if self.training and self.pools_image and batch == 1:
            raise UserValueError(
                "a training batch holds one image, but the decoder's batch normalisation of image-wide averages "
                "needs two: set data.batch_size to 2 or more, or model.architecture to deeplab"
            )


def build_deeplab(
    architecture: str = "deeplabv3plus",
    encoder: str = "resnet50",
    encoder_weights: str | None = None,
    output_stride: int = 16,
    deform_layers: int = 3,
    modulated: bool = True,
    offset_groups: int = 1,
    num_classes: int = 21,
    dilation: int | None = None,
    gradual_dilation: bool = False,
    auxiliary_head: bool = False,
) -> DeepLab:
    """Build a DeepLab whose last 3x3 encoder convolutions are deformable.

    Args:
        architecture: `deeplab` (the paper's: a 1x1 convolution on the last feature map),
            `deeplabv3` (atrous spatial pyramid pooling) or `deeplabv3plus` (that, and a
            decoder that adds detail from stride 4).
        encoder: One of `segdcn.models.ENCODERS`.
        encoder_weights: None for random weights, the name of published ones, or a file of weights, with or
            without deformable layers.
        output_stride: Input pixels per pixel of the last feature map, 8 or 16 (32 for
            `deeplab` too). 8 sees finer and costs about three times as much.
        deform_layers: How many of the encoder's last 3x3 convolutions are deformable; 0 is
            the plain network. Fresh offsets are zero: the logits do not depend on it.
        modulated: Predict a factor per read too (DCNv2).
        offset_groups: Groups of channels with offsets of their own.
        num_classes: N, channels of the logits.
        dilation: Dilation of the last stage's 3x3 convolutions; None is what output_stride
            implies.
        gradual_dilation: Let the first 3x3 convolution of a dilated stage keep the dilation of the
            stage before, where `dilation` does not say otherwise.
        auxiliary_head: Add an auxiliary head, whose parameters are named `auxiliary_head.*`.

    Returns:
        A network from images (B, 3, H, W) to logits (B, N, H, W); H and W must be
        multiples of the output stride.

    Raises:
        UserValueError: A setting that does not exist or does not fit.
        UserError: Weights that cannot be downloaded, or a file that does not fit.

    Source: Dai et al. 2017, section 4; Chen et al. 2017 (arXiv 1706.05587) and 2018
    (arXiv 1802.02611), whose dilation rates are used: 6, 12, 18 at output stride 16 and
    twice that at 8.
    """
    if architecture not in ARCHITECTURES:
        raise UserValueError(f"architecture {architecture!r} is not one of {', '.join(ARCHITECTURES)}")
    if architecture != "deeplab" and output_stride not in (8, 16):
        raise UserValueError(f"output_stride is {output_stride}, but must be 8 or 16 for {architecture}")
    if num_classes < 1:
        raise UserValueError(f"num_classes is {num_classes}, but must be at least 1")
    # Names of published weights are plain words, files have an ending.
    from_file = encoder_weights is not None and not encoder_weights.isidentifier()
    body = build_encoder(encoder, None if from_file else encoder_weights, output_stride, dilation, gradual_dilation)
    make_deformable(body, deform_layers, modulated=modulated, offset_groups=offset_groups)
    if encoder_weights is not None and from_file:
        load_encoder(body, encoder, Path(encoder_weights).expanduser())

    channels: list[int] = body.out_channels  # type: ignore[assignment]  # smp's property, behind nn.Module
    rates = tuple(rate * 16 // output_stride for rate in (6, 12, 18))
    decoder: nn.Module
    if architecture == "deeplab":
        decoder, head_channels, upsampling = LastFeature(), channels[-1], output_stride
    elif architecture == "deeplabv3":
        decoder = DeepLabV3Decoder(channels[-1], 256, rates, aspp_separable=False, aspp_dropout=0.5)
        head_channels, upsampling = 256, output_stride
    else:
        decoder = DeepLabV3PlusDecoder(
            channels,
            encoder_depth=5,
            out_channels=256,
            atrous_rates=rates,
            output_stride=output_stride,
            aspp_separable=True,
            aspp_dropout=0.5,
        )
        head_channels, upsampling = 256, 4
    head = SegmentationHead(head_channels, num_classes, kernel_size=1, upsampling=upsampling)
    if architecture == "deeplab":
        smp.base.initialization.initialize_head(head)
    # Built last, so that the weights of all the rest do not depend on it.
    auxiliary = AuxiliaryHead(channels[-2], num_classes, min(16, output_stride)) if auxiliary_head else None
    return DeepLab(body, decoder, head, output_stride, architecture != "deeplab", auxiliary)
