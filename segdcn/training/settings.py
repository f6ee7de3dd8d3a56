"""What the parser lets through and cannot be, and the name of a run that was given none."""

from collections.abc import Set
from typing import Any

from jsonargparse import Namespace
from pytorch_lightning import Trainer

from segdcn.data.describe import data_class
from segdcn.errors import UserValueError
from segdcn.refusals import refuse_nulls
from segdcn.task import SegmentationTask
from segdcn.training.options import CALLBACKS, LINKS


def check_settings(settings: Any, model_keys_in_files: Set[str]) -> None:
    """Refuse what a type does not tell: null for what needs a value, a seed out of range, what the data sets.

    Args:
        settings: A verb's, as parsed.
        model_keys_in_files: The model's keys that files set.

    Raises:
        UserValueError: A setting cannot be; the message names it.
    """
    seed = settings.seed_everything
    if not isinstance(seed, bool) and not 0 <= seed < 2**32:
        raise UserValueError(f"seed_everything is {seed}; expected 0 to {2**32 - 1}")
    for name in ("runs_dir", "wandb", "wandb_project"):
        if settings[name] is None:
            raise UserValueError(f"{name} is null; expected a value")
    for group, kind in {"trainer": Trainer, "model": SegmentationTask, **CALLBACKS}.items():
        if not isinstance(settings[group], Namespace):
            raise UserValueError(f"{group} is {settings[group]!r}; expected settings by name, {{key: value}}")
        refuse_nulls(kind, settings[group].as_dict(), f"{group}.")
    kind = data_class(settings.data.class_path, "data")
    refuse_nulls(kind, (settings.data.get("init_args") or Namespace()).as_dict(), "data.")
    if linked := sorted(model_keys_in_files & LINKS.keys()):
        raise UserValueError(f"model.{linked[0]} cannot be set: it is taken from the data")


def default_name(settings: Any) -> str:
    """Name a run by what was chosen: voc-deeplabv3plus-resnet50-dcn3, or -plain."""
    model = settings.model
    data = settings.data.class_path.rpartition(".")[2].lower()
    kind = f"dcn{model.deform_layers}" if model.deform_layers else "plain"
    return f"{data}-{model.architecture}-{model.encoder}-{kind}"
