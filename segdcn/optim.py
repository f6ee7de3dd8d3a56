"""Parameter groups, optimizers, and the learning rate as a function of the step."""

from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["sgd", "adamw"]
NORMALISATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
FSDP_PREFIX = "_fsdp_wrapped_module."


def parameter_groups(
    network: nn.Module, lr: float, weight_decay: float, encoder_lr_scale: float, offset_lr_scale: float
) -> list[dict[str, Any]]:
    """Sort the parameters that learn into named groups.

    By place: `offset` (the convolutions that predict offsets and modulation, wherever they
    are), `encoder`, and `head` (all the rest). Each place is split once more: biases and the
    parameters of normalisation get no weight decay and their group ends in `.no_decay`. Empty
    groups are left out. Shapes decide nothing: under FSDP parameters are flat pieces.

    Args:
        network: The network; parameters that need no gradient are skipped.
        lr: Rate of the head.
        weight_decay: Decay of the weights.
        encoder_lr_scale: The encoder's rate is `lr` times this.
        offset_lr_scale: The offset convolutions' rate is `lr` times this.

    Returns:
        Groups for a torch optimizer, with `name`, and `base_lr`: the rate at a factor of 1.
    """
    scales = {"encoder": encoder_lr_scale, "head": 1.0, "offset": offset_lr_scale}
    undecayed = {
        id(parameter)
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, NORMALISATION)
    }
    sorted_parameters: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for wrapped, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        name = wrapped.replace(FSDP_PREFIX, "")
        if ".offset_conv." in f".{name}":
            place = "offset"
        elif name.startswith("encoder."):
            place = "encoder"
        else:
            place = "head"
        sorted_parameters.setdefault((place, id(parameter) not in undecayed), []).append(parameter)

    return [
        {
            "name": place if decays else f"{place}.no_decay",
            "params": sorted_parameters[place, decays],
            "lr": lr * scale,
            "base_lr": lr * scale,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for place, scale in scales.items()
        for decays in (True, False)
        if (place, decays) in sorted_parameters
    ]


def build_optimizer(name: OptimizerName, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """Build the optimizer over `parameter_groups`.

    Args:
        name: `sgd` (momentum, no Nesterov) or `adamw` (decay decoupled from the gradient).
        groups: From `parameter_groups`.
        momentum: Momentum of SGD; the first beta of AdamW.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=groups[0]["lr"], momentum=momentum)
    return torch.optim.AdamW(groups, lr=groups[0]["lr"], betas=(momentum, 0.999))


def rate_factor(step: int, total_steps: int, warmup_steps: int, power: float, floor: float = 0.0) -> float:
    """Give the factor on every learning rate at a step: linear warm-up, then poly.

    While `step < warmup_steps` the factor is (step + 1) / warmup_steps, reaching 1 with the
    last warm-up step. After that it is floor + (1 - floor) * (1 - t)**power, t running from 0
    at the end of the warm-up to 1 at `total_steps`, where it is `floor`.

    Args:
        step: Optimizer steps taken so far.
        total_steps: Steps of the whole run.
        warmup_steps: Length of the warm-up; 0 is none.
        power: 0.9 is DeepLab's; 1 falls on a line; 0 keeps the rate.
        floor: Where the factor ends, 0 to 1.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return floor + (1 - floor) * (1 - min(1.0, progress)) ** power


def set_rates(optimizer: torch.optim.Optimizer, factor: float, offsets_learn: bool) -> dict[str, float]:
    """Set the rate of every group to `factor * base_lr`, offset groups to 0 unless they learn.

    With a rate of 0 neither SGD nor AdamW changes a parameter, weight decay included.

    Returns:
        The rate now in force by place: `{"encoder": ..., "head": ..., "offset": ...}`.
    """
    rates = {}
    for group in optimizer.param_groups:
        place = group["name"].removesuffix(".no_decay")
        group["lr"] = group["base_lr"] * factor if offsets_learn or place != "offset" else 0.0
        rates[place] = group["lr"]
    return rates
