"""What the settings of a task have to be, beyond their types; the network checks its own."""

import math
from collections.abc import Mapping
from typing import Any

from segdcn import losses
from segdcn.errors import UserValueError

# Numbers of 0 or more.
RATES = (
    *("lr", "weight_decay", "encoder_lr_scale", "offset_lr_scale", "warmup_steps", "offset_warmup_steps", "poly_power"),
    "aux_weight",
)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that cannot work.

    Args:
        settings: What a `SegmentationTask` was given, by name.

    Raises:
        UserValueError: One does not; the message names it, what it is and what it should be.
    """

    def refuse(name: str, expected: str) -> None:
        raise UserValueError(f"model.{name} is {settings[name]}; expected {expected}")

    num_classes, names = settings["num_classes"], settings["class_names"]
    if not 1 <= num_classes <= losses.IGNORE:
        raise UserValueError(f"num_classes is {num_classes}; expected 1 to {losses.IGNORE}: labels are 8 bits")
    if names and len(names) != num_classes:
        raise UserValueError(f"{len(names)} class_names for {num_classes} classes; give one for each")
    for name in RATES:
        if not 0 <= settings[name] < math.inf:
            refuse(name, "a number of 0 or more")
    if not 0 <= settings["momentum"] < 1:
        refuse("momentum", "a number from 0 to below 1")
    if not 0 <= settings["min_lr"] <= settings["lr"]:
        refuse("min_lr", f"a rate from 0 to model.lr, which is {settings['lr']}")
    if settings["lr_batch"] is not None and settings["lr_batch"] < 1:
        refuse("lr_batch", "a number of images, or null")
    if settings["ema_decay"] is not None and not 0 <= settings["ema_decay"] < 1:
        refuse("ema_decay", "a number from 0 to below 1, or null")
