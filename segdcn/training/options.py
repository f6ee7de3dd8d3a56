"""What the command line takes beside the settings of trainer, data and model, and what the data sets of the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser

from segdcn.callbacks.divergence import Divergence
from segdcn.callbacks.early_stopping import EarlyStop
from segdcn.callbacks.effective_dilation import EffectiveDilationLog
from segdcn.callbacks.offset_health import OffsetHealth
from segdcn.callbacks.pictures import Pictures
from segdcn.loggers import WandbMode

_PASSED = {"model", "datamodule", "weights_only", "verbose"}
# The verbs, with the arguments of the Trainer's methods that are not for the command line.
VERBS = {
    "fit": _PASSED | {"train_dataloaders", "val_dataloaders"},
    "validate": _PASSED | {"dataloaders"},
    "test": _PASSED | {"dataloaders"},
}

# What the network is told by the data, with the plain type that a checkpoint keeps.
LINKS: dict[str, Callable[[Any], Any]] = {
    "num_classes": int,
    "class_names": list,
    "palette": lambda palette: [list(colour) for colour in palette],
    "mean": list,
    "std": list,
}

# Callbacks with settings of their own.
CALLBACKS: dict[str, type[Callback]] = {
    "pictures": Pictures,
    "divergence": Divergence,
    "offset_health": OffsetHealth,
    "effective_dilation": EffectiveDilationLog,
}

EXAMPLE = """
Compose files with --config, --data and --model; what comes later on the line wins.

Example:
    segdcn {verb} --config configs/base.yaml --data configs/data/voc.yaml \\
        --model configs/model/deeplabv3plus_r50_dcn.yaml --data.root DIR {more}
"""


def description(verb: str) -> str:
    """Say what a verb does, with an example."""
    what = {
        "fit": "Train a network, or go on training it.",
        "validate": "Measure a checkpoint on the validation set.",
        "test": "Measure a checkpoint on the test set.",
    }
    more = {"fit": "--model.lr 0.01", "validate": "--ckpt_path best", "test": "--ckpt_path FILE"}
    return what[verb] + "\n" + EXAMPLE.format(verb=verb, more=more[verb])


def add_options(parser: LightningArgumentParser) -> None:
    """Add what is ours to every verb: the run, W&B, pictures, offsets, and the links from data to model."""
    parser.add_argument(
        "--name", type=str | None, default=None, help="Name of the run; null makes one from data and model."
    )
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Folder of all runs.")
    parser.add_argument(
        "--wandb", type=WandbMode, default="auto", help="auto is online where an API key is set, else offline."
    )
    parser.add_argument("--wandb_project", type=str, default="segdcn", help="Project on Weights & Biases.")
    parser.add_argument(
        "--wandb_checkpoint",
        type=Literal["best", "last"] | None,
        default=None,
        help="Checkpoint that W&B gets as an artifact when fit ends; null: none.",
    )
    parser.add_argument(
        "--early_stopping",
        type=EarlyStop | None,
        default=None,
        help="When to stop before the end, such as {monitor: val/mIoU, patience: 10, min_delta: 0.001}; null: never.",
    )
    for group, callback in CALLBACKS.items():
        parser.add_lightning_class_args(callback, group)
    for name, plain in LINKS.items():
        parser.link_arguments(f"data.{name}", f"model.{name}", compute_fn=plain, apply_on="instantiate")


def explain_checkpoint(parser: LightningArgumentParser, verb: str) -> None:
    """Say what `ckpt_path` means here, in place of what Lightning says of its own."""
    going_on = (
        "last, which goes on with the newest run of that name, in its folder" if verb == "fit" else "last or best"
    )
    whose = "" if verb == "fit" else ", of the newest run of that name"
    (action,) = (action for action in parser._actions if action.dest == "ckpt_path")
    action.help = f"Checkpoint: a file, or {going_on}{whose}; {'null trains anew' if verb == 'fit' else 'needed'}."


def add_submission(parser: LightningArgumentParser) -> None:
    """Add what only validate and test take."""
    parser.add_argument(
        "--submission",
        type=Path | None,
        default=None,
        help="New folder for the predictions, as the data set's benchmark takes them; "
        "a split without any label file will do.",
    )
