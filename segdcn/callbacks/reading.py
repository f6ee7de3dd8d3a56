"""Asking a network in training what it predicts and where it reads, without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from segdcn import offsets
from segdcn.task import SegmentationTask


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a module evaluate, then put every part of it back into the mode that it was in, frozen ones too."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@torch.no_grad()
def predict(trainer: Trainer, task: SegmentationTask, image: Tensor) -> Tensor:
    """Predict the classes (H, W) of one image (1, 3, H, W) as validation does: in windows, at scales, as it is set."""
    # Sizes that come once are not worth compiling for.
    with evaluating(task), trainer.precision_plugin.forward_context(), torch.compiler.set_stance("force_eager"):
        return task.inference(task, image.to(task.device)).argmax(1)[0].cpu()


def read_offsets(trainer: Trainer, task: SegmentationTask, image: Tensor) -> list[offsets.SamplingField]:
    """Run the encoder on one image (1, 3, H, W) as evaluation does, in the run's precision.

    A forward pass of its own: hooks in the training step would not be seen by a compiled network.
    """
    encoder = task.network.encoder
    assert isinstance(encoder, nn.Module)
    with evaluating(encoder), trainer.precision_plugin.forward_context():
        return offsets.record(
            lambda image: encoder(image.contiguous(memory_format=task.memory_format)), task.network, image
        )
