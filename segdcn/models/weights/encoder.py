"""Find a ResNet in a file of weights, from torchvision, timm, mmsegmentation or segdcn, and load it.

All of them call its weights alike, behind whatever prefix: conv1, bn1, layer1.0.conv1, layer1.0.downsample.0, ... What
such a file does not say is taken for granted: ReLU, a max-pooling of 3x3, and strides in the 3x3 convolutions.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segdcn.errors import InvalidDataError, UserValueError
from segdcn.layers import from_mmcv
from segdcn.layers.mmcv import offset_fields
from segdcn.models.encoder import ENCODERS, build_encoder
from segdcn.models.weights.difference import difference
from segdcn.models.weights.file import WeightsFile, in_float32, read_weights

ANCHOR = "layer1.0.conv1.weight"

_log = logging.getLogger("segdcn")


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder's weights under segdcn's names.

    Attributes:
        name: One of `segdcn.models.ENCODERS`.
        tensors: All of its weights, and `offset_conv`'s where the file has deformable layers.
        deformable: The settings `deform_layers`, `modulated` and `offset_groups` with which these load; empty
            where no layer is deformable.
        left_out: What else the file holds, with the number of its tensors.
    """

    name: str
    tensors: dict[str, Tensor]
    deformable: dict[str, int | bool]
    left_out: dict[str, int]


def find_encoder(file: WeightsFile) -> FoundEncoder:
    """Recognise the encoder in a file and give its weights segdcn's names.

    1. Whatever stands before `layer1.0.conv1.weight` is the prefix; all without it is left out, and
       so is the classifier `fc`.
    2. mmcv's deformable layers are converted (`segdcn.layers.from_mmcv`).
    3. Names and shapes must be those of one of `ENCODERS`, without exception.

    Raises:
        InvalidDataError: There is none, or one that segdcn does not build; the message gives the reason.
        UserValueError: There are several.
    """
    prefix = _prefix(file)
    if re.search(r"style\s*=\s*['\"]caffe", file.settings):
        raise InvalidDataError(
            f"{file.path} holds a ResNet of the style 'caffe': its 1x1 convolutions have the strides, which segdcn has "
            "in the 3x3 convolutions"
        )
    inside = {name.removeprefix(prefix): value for name, value in file.tensors.items() if name.startswith(prefix)}
    outside = [name for name in file.tensors if not name.startswith(prefix)]
    head = [name for name in inside if name.startswith("fc.")]
    try:
        tensors = from_mmcv(in_float32({name: inside[name] for name in inside if name not in head}, file.path))
    except UserValueError as error:
        raise InvalidDataError(f"{file.path}: {error}") from error
    encoder = _recognise(tensors, file.path)
    around = prefix.rpartition(".")[0].rpartition(".")[0]  # `module` of `module.backbone.`
    left_out = Counter(name.removeprefix(f"{around}.").partition(".")[0] for name in [*head, *outside])
    return FoundEncoder(encoder, tensors, _deformable(encoder, tensors, file.path), dict(left_out))


def load_encoder(encoder: nn.Module, name: str, path: Path) -> None:
    """Load `encoder_weights: FILE`.

    Weights of deformable layers that the file does not have stay as they are: their offsets start at zero.

    Args:
        encoder: From `build_encoder`, with its deformable layers.
        name: One of `ENCODERS`, which it is.
        path: What `find_encoder` knows.

    Raises:
        MissingFileError: There is no such file.
        InvalidDataError: As `read_weights` and `find_encoder`.
        UserValueError: It holds another encoder, or other deformable layers.
    """
    found = find_encoder(read_weights(path))
    if found.name != name:
        raise UserValueError(f"encoder_weights {path} are those of {found.name}; set model.encoder: {found.name}")
    wanted = {key: value.shape for key, value in encoder.state_dict().items()}
    if any(wanted.get(key) != value.shape for key, value in found.tensors.items()):
        settings = ", ".join(f"model.{key}: {str(value).lower()}" for key, value in found.deformable.items())
        raise UserValueError(f"encoder_weights {path} hold deformable layers that this network lacks; set {settings}")
    encoder.load_state_dict(found.tensors, strict=False)
    fresh = sum(key.endswith("offset_conv.weight") for key in wanted.keys() - found.tensors.keys())
    said = [f"encoder_weights: {name} from {path}"]
    if found.left_out:
        said.append(f"left out {listed(found.left_out)}")
    if fresh:
        said.append(f"the offsets of {fresh} layers start at zero")
    _log.info("; ".join(said))


def listed(left_out: Mapping[str, int]) -> str:
    """Name groups of weights: `fc (2 weights), decode_head (14 weights)`."""
    return ", ".join(f"{group} ({count} weights)" for group, count in left_out.items())


def _prefix(file: WeightsFile) -> str:
    found = [name.removesuffix(ANCHOR) for name in file.tensors if f".{name}".endswith(f".{ANCHOR}")]
    if not found:
        raise InvalidDataError(
            f"{file.path} holds no ResNet: no weight is called {ANCHOR}, with any prefix; "
            f"the first of {len(file.tensors)} is {next(iter(file.tensors))}"
        )
    if len(found) > 1:
        raise UserValueError(
            f"{file.path} holds {len(found)} ResNets, {', '.join(found)}; save the weights of one alone"
        )
    return found[0]


@cache
def _bare(name: str) -> nn.Module:
    """Build an encoder without numbers."""
    with torch.device("meta"):
        return build_encoder(name, output_stride=32)


def _recognise(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Name the encoder that has exactly these weights."""
    given = {name: value for name, value in tensors.items() if ".offset_conv." not in name}
    depths = [len({name.split(".")[1] for name in given if name.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4)]
    alike = [name for name in ENCODERS if smp.encoders.encoders[name]["params"]["layers"] == depths]
    nearest = []
    for name in alike:
        count, which = difference(given, _bare(name).state_dict())
        if not count:
            return name
        nearest.append((count, f"against {name}, {which}"))
    reason = _reason(given) or (min(nearest)[1] if nearest else f"none has stages of {depths} blocks")
    raise InvalidDataError(f"{path} holds a ResNet that segdcn does not build: {reason}")


def _reason(given: Mapping[str, Tensor]) -> str | None:
    """Tell the known kinds of ResNets that compute something else."""
    if any(name.startswith(("stem.", "conv1.0.")) for name in given):
        return "it begins with three 3x3 convolutions (ResNet-C or -D, V1c or V1d), segdcn's with one 7x7"
    if any(name.endswith("downsample.1.weight") and value.dim() == 4 for name, value in given.items()):
        return "its shortcuts pool before they convolve (ResNet-D, V1d)"
    if any(".se." in name for name in given):
        return "its blocks weight channels (squeeze and excitation)"
    if "bn1.running_mean" not in given:
        return "it has no batch normalisation with statistics"
    stem = given.get("conv1.weight")
    if stem is not None and stem.shape[1:] != (3, 7, 7):
        channels, *size = stem.shape[1:]
        return f"its first convolution reads {channels} channels with a kernel of {tuple(size)}, segdcn's 3 with (7, 7)"
    return None


def _deformable(name: str, tensors: Mapping[str, Tensor], path: Path) -> dict[str, int | bool]:
    """Find the settings that make the layers deformable for which there are offsets."""
    fields = {key for key in tensors if ".offset_conv." in key}
    if not fields:
        return {}
    spatial = [
        layer
        for layer, module in _bare(name).named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    layers = [layer for layer in spatial if f"{layer}.offset_conv.weight" in fields]
    if unknown := sorted(fields - {f"{layer}.offset_conv.{end}" for layer in layers for end in ("weight", "bias")}):
        raise InvalidDataError(f"{path}: {unknown[0]} belongs to no 3x3 convolution of {name}")
    try:
        kinds = {offset_fields(tensors[f"{layer}.weight"], tensors[f"{layer}.offset_conv.weight"]) for layer in layers}
    except UserValueError as error:
        raise InvalidDataError(f"{path}: {error}") from error
    if len(kinds) > 1:
        which = ", ".join(f"version {1 + modulated} with {groups} offset groups" for modulated, groups in sorted(kinds))
        raise InvalidDataError(
            f"{path} holds deformable layers of several kinds ({which}); a network of segdcn has one"
        )
    modulated, groups = kinds.pop()
    return {"deform_layers": len(spatial) - spatial.index(layers[0]), "modulated": modulated, "offset_groups": groups}
