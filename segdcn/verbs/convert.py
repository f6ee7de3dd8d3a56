"""`segdcn convert`: weights that others trained, as files that segdcn uses."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning
import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor

from segdcn import __version__
from segdcn.data.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationData
from segdcn.data.describe import load_data
from segdcn.errors import InvalidDataError, UserValueError
from segdcn.export import read_trained
from segdcn.export.output import check_output, named_after, publish, staged
from segdcn.export.verify import TOLERANCE, compare, other_sizes
from segdcn.layers import from_mmcv
from segdcn.models import DeepLab
from segdcn.models.weights import FoundDeepLab, WeightsFile, find_deeplab, find_encoder, listed, read_weights
from segdcn.task import SegmentationTask
from segdcn.verbs.report_file import check_report_file, write_report

Part = Literal["network", "encoder", "layers"]
SUFFIXES = {"network": ".ckpt", "encoder": ".safetensors", "layers": ".safetensors"}

AUXILIARY_WEIGHT = 0.5  # with which torchvision trains its auxiliary head


@dataclass
class Converted:
    """What became of the weights: lines to print, facts for --json, and whether the file may be left."""

    lines: list[str]
    facts: dict[str, Any] = field(default_factory=dict)
    same: bool = True


def convert(
    source: str,
    part: Part | None = None,
    output: str | None = None,
    data: str | None = None,
    deform_layers: int = 0,
    key: str | None = None,
    overwrite: bool = False,
    json: str | None = None,
) -> int:
    """Turn weights from torchvision, timm, mmsegmentation or mmcv into a file that segdcn uses.

    network: torchvision's deeplabv3_resnet50 and deeplabv3_resnet101, as a checkpoint for segdcn.load, validate, test,
    export and fit (--ckpt_path FILE). Its logits are compared with those of torchvision's network, before they are
    upsampled: torchvision does that with align_corners=False, segdcn with True.
    encoder: a ResNet or ResNeXt out of any file, behind any prefix (module., backbone., ...), with mmcv's deformable
    layers if it has them, as weights for --model.encoder_weights FILE. That takes SOURCE itself too.
    layers: a state dict of anything, in which mmcv's DCN and DCNv2 become layers of segdcn.layers.

    SOURCE is what torch.save wrote (.pth, .pt, .ckpt), or safetensors. Only weights are read, and nothing in it is
    run. What cannot be converted exactly is refused with the reason.

    Example:
        segdcn convert deeplabv3_resnet50_coco-cd0a2569.pth --data configs/data/voc.yaml

    Args:
        source: File of weights.
        part: What to convert; null takes the network where it is one of torchvision's, else the encoder.
        output: The file; null names it after SOURCE, beside it.
        data: YAML of the data set a network was trained on: names and colours of its classes, mean and std; null
            numbers the classes and takes ImageNet's mean and std.
        deform_layers: Make so many layers of a network deformable; with offsets of zero, they change nothing yet.
        key: Under which name the weights lie in SOURCE; null looks for them.
        overwrite: Replace the output.
        json: Also write what was done to this file.

    Returns:
        0, or 1 where the network does not compute the same.

    Raises:
        UserError: Something given does not fit, or cannot be converted.
    """
    if json is not None:
        check_report_file(json)
    described = load_data(data) if data is not None else None
    console = Console()
    with console.status(f"reading {source}"):
        file = read_weights(Path(source), key)
        deeplab = find_deeplab(file) if part in (None, "network") else None
    if part == "network" and deeplab is None:
        raise InvalidDataError(
            f"{source} holds no DeepLabV3 of torchvision, the one network that is converted as a whole: the heads of "
            "others differ (mmsegmentation's ASPP ends in a 3x3 convolution); take --part encoder"
        )
    part = part or ("encoder" if deeplab is None else "network")
    if part != "network" and (data is not None or deform_layers):
        raise UserValueError(f"data and deform_layers are for a network, but what is converted is: {part}")
    place = Path(output) if output is not None else named_after(Path(source), f"-{part}{SUFFIXES[part]}")
    check_output(place, SUFFIXES[part], overwrite, Path(source))

    with staged(place) as written, console.status("converting"):
        if deeplab is not None:
            done = _convert_network(deeplab, described, deform_layers, written)
        elif part == "encoder":
            done = _convert_encoder(file, place, written)
        else:
            done = _convert_layers(file, written)
        if done.same:
            publish(written, place, overwrite)

    for line in done.lines:
        console.print(line, soft_wrap=True)
    if file.others:
        console.print(f"converted {file.key}; {source} holds {', '.join(file.others)} too (--key)", soft_wrap=True)
    console.print(f"{place}" if done.same else f"{place} was not written", soft_wrap=True)
    if json is not None:
        facts = {"source": source, "key": file.key, "part": part, "output": str(place) if done.same else None}
        write_report(json, facts | done.facts)
    return 0 if done.same else 1


# A whole network


def _convert_network(found: FoundDeepLab, data: SegmentationData | None, deform_layers: int, path: Path) -> Converted:
    """Write a checkpoint, open it as everyone does, and compare it with torchvision's network."""
    num_classes = found.settings["num_classes"]
    if data is not None and data.num_classes != num_classes:
        raise UserValueError(f"the data has {data.num_classes} classes, but the network gives logits of {num_classes}")
    settings = {
        **{name: value for name, value in found.settings.items() if name != "auxiliary_head"},
        "aux_weight": AUXILIARY_WEIGHT if found.settings["auxiliary_head"] else 0.0,
        "deform_layers": deform_layers,
        "class_names": [f"class {index}" for index in range(num_classes)] if data is None else list(data.class_names),
        "palette": None if data is None else [list(colour) for colour in data.palette],
        "mean": list(IMAGENET_MEAN if data is None else data.mean),
        "std": list(IMAGENET_STD if data is None else data.std),
    }
    task = SegmentationTask(**settings)
    report = task.network.load_state_dict(found.tensors, strict=False)
    # Fresh offsets are missing, and nothing else.
    assert not report.unexpected_keys and all(".offset_conv." in name for name in report.missing_keys)
    torch.save(_checkpoint(task, settings), path)
    network = read_trained(path).network
    assert isinstance(network, DeepLab)
    compared = compare(found.source, lambda image: _coarse_logits(network, image), other_sizes(network.size_divisor))

    worst = max(compared, key=lambda one: one.difference)
    auxiliary = "an" if found.settings["auxiliary_head"] else "no"
    lines = [
        f"DeepLabV3, {settings['encoder']}, {num_classes} classes, {auxiliary} auxiliary head",
        f"before upsampling, logits of up to {worst.largest:.2g} differ by {worst.difference:.1e} from torchvision's "
        f"(allowed: {worst.allowed:.1e})",
    ]
    if data is None:
        lines.append("the classes are numbered; --data names them, without which validate, test and fit refuse them")
    facts = {"settings": settings, "tolerance": TOLERANCE, "comparisons": [asdict(one) for one in compared]}
    return Converted(lines, facts, all(one.agrees for one in compared))


def _coarse_logits(network: DeepLab, image: Tensor) -> Tensor:
    """Compute logits before they are upsampled: the head without its last layers."""
    logits: Tensor = network.segmentation_head[0](network.decoder(network.encoder(image)))  # type: ignore[index]
    return logits


def _checkpoint(task: SegmentationTask, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make what fit would save before its first step; settings of training are left to who trains on."""
    checkpoint: dict[str, Any] = {
        "state_dict": task.state_dict(),
        "hyper_parameters": dict(settings),
        "optimizer_states": [],
        "lr_schedulers": [],
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pytorch_lightning.__version__,
    }
    task.on_save_checkpoint(checkpoint)
    return checkpoint


# Parts of one


def _convert_encoder(file: WeightsFile, place: Path, path: Path) -> Converted:
    found = find_encoder(file)
    _write(found.tensors, file, path)
    settings = {"encoder": found.name, "encoder_weights": str(place), **found.deformable}
    flags = " ".join(
        f"--model.{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in settings.items()
    )
    lines = [found.name + (f"; left out: {listed(found.left_out)}" if found.left_out else ""), f"use it with {flags}"]
    return Converted(lines, {"settings": settings, "left_out": found.left_out})


def _convert_layers(file: WeightsFile, path: Path) -> Converted:
    try:
        tensors = from_mmcv(file.tensors)
    except UserValueError as error:
        raise InvalidDataError(f"{file.path}: {error}") from error
    made = [name for name in tensors.keys() - file.tensors.keys() if name.endswith("offset_conv.weight")]
    layers = sorted(name.removesuffix("offset_conv.weight").removesuffix(".") for name in made)
    if not layers:
        raise InvalidDataError(f"{file.path} holds no deformable layer of mmcv: no name ends in conv_offset.weight")
    _write(tensors, file, path)
    return Converted([f"converted {len(layers)} layers: {', '.join(layers)}"], {"layers": layers})


def _write(tensors: Mapping[str, Tensor], file: WeightsFile, path: Path) -> None:
    """Write weights that are independent of each other, as this format wants them."""
    stored = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    told = {"format": "pt", "segdcn_version": __version__, "converted_from": file.path.name}
    path.write_bytes(safetensors.torch.save(stored, told))  # save_file lets nobody else read it
