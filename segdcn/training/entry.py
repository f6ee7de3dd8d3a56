"""The two ways in: do what a line says, or build what a fit would work with."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml
from pytorch_lightning import Trainer

from segdcn.data import SegmentationData
from segdcn.task import SegmentationTask
from segdcn.training.command import SegmentationCLI
from segdcn.training.messages import without_noise


def train(args: Sequence[str], quiet: bool = True) -> None:
    """Run `fit`, `validate` or `test`.

    Args:
        args: The verb and its arguments.
        quiet: Leave out Lightning's notices and the warnings nobody can act on.

    Raises:
        UserError: Something in the arguments, the data or the checkpoint does not fit.
        RunFailed: Anything else, after the run folder was made.
    """
    with without_noise(quiet):
        SegmentationCLI(args)


class Rehearsal(NamedTuple):
    """What a `fit` would work with.

    Attributes:
        settings: The resolved configuration, defaults included, as `config.yaml` holds it.
        task: The network before its first step.
        data: The data set.
    """

    settings: dict[str, Any]
    task: SegmentationTask
    data: SegmentationData


def rehearse(args: Sequence[str]) -> Rehearsal:
    """Parse, check and build what `fit` would with these arguments, without training and without a run folder.

    Args:
        args: Those of `fit`.

    Raises:
        UserError: What `fit` would refuse before its first step.
    """
    with without_noise(True):
        cli = _RehearsingCLI(["fit", *args])
    return Rehearsal(yaml.safe_load(cli.dump()), cli.model, cli.datamodule)


class _RehearsingCLI(SegmentationCLI):
    """Stops short of everything that is written or run."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check what a trainer would get, and build one that is not used."""
        self._checked()
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""
