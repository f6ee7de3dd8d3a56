"""torchvision's DeepLabV3, which segdcn can build too, under other names."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50, deeplabv3_resnet101

from segdcn.errors import InvalidDataError
from segdcn.models.weights.difference import difference
from segdcn.models.weights.encoder import find_encoder
from segdcn.models.weights.file import WeightsFile, in_float32

ANCHOR = "classifier.0.convs.0.0.weight"
BUILDERS = {"resnet50": deeplabv3_resnet50, "resnet101": deeplabv3_resnet101}
NAMES = {
    "backbone.": "encoder.",
    "classifier.0.": "decoder.aspp.",
    "classifier.1.": "decoder.conv.",
    "classifier.2.": "decoder.bn.",
    "classifier.4.": "segmentation_head.0.",
    "aux_classifier.": "auxiliary_head.",
}


class CoarseLogits(nn.Module):
    """torchvision's network up to where it upsamples: images (B, 3, H, W) to logits (B, N, H / 8, W / 8)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.network.classifier(self.network.backbone(image)["out"])  # type: ignore[operator]
        return logits


@dataclass(frozen=True)
class FoundDeepLab:
    """torchvision's DeepLabV3 in segdcn's terms.

    Attributes:
        settings: Arguments of `build_deeplab` that make the same network.
        tensors: Its weights under segdcn's names.
        source: torchvision's own network with the weights of the file, in evaluation mode.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    source: CoarseLogits


def find_deeplab(file: WeightsFile) -> FoundDeepLab | None:
    """Recognise torchvision's deeplabv3_resnet50 or deeplabv3_resnet101; None if it is something else.

    Names and shapes must be exactly those of torchvision's network. What weights do not say is as
    torchvision builds it: output stride 8, dilated stages that begin with the dilation before them,
    rates 12, 24 and 36.

    Raises:
        InvalidDataError: It is a DeepLabV3 of that kind, but another one; the message gives the reason.
    """
    anchor = next((name for name in file.tensors if f".{name}".endswith(f".{ANCHOR}")), None)
    if anchor is None:
        return None
    prefix = anchor.removesuffix(ANCHOR)
    inside = {name.removeprefix(prefix): value for name, value in file.tensors.items() if name.startswith(prefix)}
    given = in_float32(inside, file.path)
    encoder = find_encoder(file).name
    if encoder not in BUILDERS:
        raise InvalidDataError(
            f"{file.path} holds a DeepLabV3 on {encoder}; torchvision's are on {', '.join(BUILDERS)}"
        )
    num_classes = len(given.get("classifier.4.bias", [None]))
    auxiliary = any(name.startswith("aux_classifier.") for name in given)
    with torch.device("meta"):  # without numbers: they come from the file
        source = BUILDERS[encoder](weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=auxiliary)
    count, which = difference(given, source.state_dict())
    if count:
        raise InvalidDataError(
            f"{file.path} is not torchvision's deeplabv3_{encoder}: {which}; --part encoder takes its encoder alone"
        )
    source.load_state_dict(given, assign=True)
    tensors = {}
    for name, value in given.items():
        theirs = next(theirs for theirs in NAMES if name.startswith(theirs))
        tensors[NAMES[theirs] + name.removeprefix(theirs)] = value
    settings = {
        "architecture": "deeplabv3",
        "encoder": encoder,
        "output_stride": 8,
        "gradual_dilation": True,
        "num_classes": num_classes,
        "auxiliary_head": auxiliary,
    }
    return FoundDeepLab(settings, tensors, CoarseLogits(source).eval())
