"""What fit, validate and test print: lines of ours, and what of Lightning's and torch's is left out."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning.utilities.rank_zero import rank_zero_only

# Not for a user to act on; real warnings stay. Message starts, as warnings.filterwarnings takes them.
NOISE = [
    r".*does not have many workers which may be a bottleneck",  # data.num_workers is in every data YAML
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # so it is when a run goes on
    r"The dirpath has changed from",  # so it does when a new run starts from a checkpoint file
    r"Be aware that when using `ckpt_path`, callbacks used to create",  # validation saves no checkpoints
    r"\s*(By default only one JsonargparseDep|``instantiate_classes`` was deprecated)",  # LightningCLI's calls
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch about Lightning
]


@contextmanager
def without_noise(quiet: bool) -> Iterator[None]:
    """Leave out Lightning's notices and the warnings nobody can act on, or leave all as it is."""
    with warnings.catch_warnings():
        if quiet:
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            for name in ("pytorch_lightning", "lightning_fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
        yield


@rank_zero_only
def say(line: str) -> None:
    """Print a line, from the first process only."""
    print(f"segdcn: {line}", flush=True)
