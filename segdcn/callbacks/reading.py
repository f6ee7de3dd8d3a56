"""Asking a network in training where it reads."""

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from segdcn import offsets
from segdcn.task import SegmentationTask


def read_offsets(trainer: Trainer, task: SegmentationTask, image: Tensor) -> list[offsets.SamplingField]:
    """Run the encoder on one image (1, 3, H, W) as evaluation does, in the run's precision.

    A forward pass of its own: hooks in the training step would not be seen by a compiled
    network. It leaves no trace; every module is in the mode it was in, frozen ones too.
    """
    encoder = task.network.encoder
    assert isinstance(encoder, torch.nn.Module)
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with trainer.precision_plugin.forward_context():
            return offsets.record(
                lambda image: encoder(image.contiguous(memory_format=task.memory_format)), task.network, image
            )
    finally:
        for module, training in modes.items():
            module.training = training
