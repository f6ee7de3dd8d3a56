"""ResNet encoders, and the swap that makes their last convolutions deformable."""

import logging
from difflib import get_close_matches

import segmentation_models_pytorch as smp
import torch
from torch import nn

from segdcn.errors import UserError, UserValueError
from segdcn.layers import DeformableConv2d

# In these, modules are defined in the order in which they run, so "the last n 3x3
# convolutions" can be read off the module tree.
ENCODERS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext101_32x16d",
    "resnext101_32x32d",
    "resnext101_32x48d",
)

# Whose exceptions mean that a download failed; most are OSErrors, but not all.
NETWORK_PACKAGES = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")

_log = logging.getLogger("segdcn")


def build_encoder(
    name: str,
    weights: str | None = None,
    output_stride: int = 16,
    last_dilation: int | None = None,
    gradual_dilation: bool = False,
) -> nn.Module:
    """Build a ResNet encoder from segmentation_models_pytorch.

    Args:
        name: One of `ENCODERS`.
        weights: None for random weights, or the name of published ones ("imagenet"), which
            are downloaded once and then found in the download cache.
        output_stride: Input pixels per pixel of the last feature map: 8, 16 or 32. The
            stages that would go below are dilated instead of strided.
        last_dilation: Dilation of the last stage's 3x3 convolutions; None is what
            output_stride implies (2 at 16). The axis of the paper's table 3.
        gradual_dilation: Let the first 3x3 convolution of a dilated stage keep the dilation of the
            stage before, as in torchvision, timm and mmsegmentation; smp dilates the whole stage.

    Raises:
        UserValueError: An unknown encoder, weights or output stride.
        UserError: The weights cannot be downloaded.
    """
    if name not in ENCODERS:
        near = get_close_matches(str(name), ENCODERS, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise UserValueError(f"encoder {name!r} is not one of {', '.join(ENCODERS)}{hint}")
    if output_stride not in (8, 16, 32):
        raise UserValueError(f"output_stride is {output_stride}, but must be 8, 16 or 32")
    if last_dilation is not None and last_dilation < 1:
        raise UserValueError(f"dilation is {last_dilation}, but must be at least 1 (or null)")
    available = smp.encoders.encoders[name]["pretrained_settings"]
    if weights is not None and weights not in available:
        raise UserValueError(
            f"encoder_weights {weights!r} are not published for {name}; use null, a file or {list(available)}"
        )
    if weights is not None:
        _log.info("loading %s weights of %s (downloaded once, then cached)", weights, name)
    try:
        encoder = smp.encoders.get_encoder(name, weights=weights, output_stride=output_stride)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in NETWORK_PACKAGES:
            raise
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"encoder_weights {weights!r} of {name} could not be downloaded ({reason}); connect to a network, or "
            "set model.encoder_weights: null to start from random weights"
        ) from error
    if gradual_dilation:
        before: tuple[int, ...] = (1, 1)
        for stage in (encoder.layer3, encoder.layer4):
            first, *_, last = _spatial(stage)
            if first.stride == (1, 1):
                first.dilation = first.padding = before
            before = last.dilation
    if last_dilation is not None:
        for conv in _spatial(encoder.layer4):
            if conv.stride == (1, 1):
                conv.dilation = conv.padding = (last_dilation, last_dilation)
    return encoder


def _spatial(stage: nn.Module) -> list[nn.Conv2d]:
    return [module for module in stage.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)]


def make_deformable(encoder: nn.Module, layers: int, *, modulated: bool = True, offset_groups: int = 1) -> list[str]:
    """Replace the last `layers` 3x3 convolutions of `encoder` by deformable ones, in place.

    To be called on the finished encoder, after strides were turned into dilation. Weights
    are kept and offsets start at zero, so the encoder still computes the same. No random number
    is drawn: what is built after it, and dropout, are those of the plain network of the same seed.

    Args:
        encoder: A network whose modules are defined in the order in which they run.
        layers: How many; 0 changes nothing. The axis of the paper's table 1.
        modulated: See `DeformableConv2d`.
        offset_groups: See `DeformableConv2d`.

    Returns:
        The names of the replaced modules, in the order in which they run.

    Raises:
        UserValueError: `layers` is negative or more than there are.
    """
    names = [
        name
        for name, module in encoder.named_modules()
        # Not the convolution that predicts offsets, inside a layer that is deformable already.
        if type(module) is nn.Conv2d and module.kernel_size == (3, 3) and not name.endswith("offset_conv")
    ]
    if not 0 <= layers <= len(names):
        raise UserValueError(f"deform_layers is {layers}, but this encoder has {len(names)} 3x3 convolutions")
    replaced = names[len(names) - layers :]
    with torch.random.fork_rng(devices=[]):
        for name in replaced:
            parent_name, _, child_name = name.rpartition(".")
            parent = encoder.get_submodule(parent_name)
            conv = getattr(parent, child_name)
            setattr(
                parent,
                child_name,
                DeformableConv2d.from_conv(conv, modulated=modulated, offset_groups=offset_groups),
            )
    return replaced


def deformable_layers(network: nn.Module) -> dict[str, DeformableConv2d]:
    """Return the deformable convolutions of a network by name, in the order in which they run."""
    return {name: module for name, module in network.named_modules() if isinstance(module, DeformableConv2d)}
