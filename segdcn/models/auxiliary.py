"""The auxiliary head: a second, shallower opinion that training has to get right too."""

from torch import nn


class AuxiliaryHead(nn.Sequential):
    """Logits from the features of the encoder's third stage, at the input's size.

    3x3 convolution to 256 channels, normalisation, ReLU, dropout of whole channels (0.1), 1x1
    convolution, bilinear upsampling. Its loss reaches the encoder by a short way, which steadies
    the first steps of deep encoders.

    Args:
        in_channels: Channels of the third stage.
        num_classes: N, channels of the logits.
        upsampling: Input pixels per pixel of the third stage.

    Source: Zhao et al. 2017 (arXiv 1612.01105), section 3.3; sizes as in mmsegmentation's FCNHead.
    """

    def __init__(self, in_channels: int, num_classes: int, upsampling: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 256, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(256, num_classes, kernel_size=1),
            nn.UpsamplingBilinear2d(scale_factor=upsampling),
        )
