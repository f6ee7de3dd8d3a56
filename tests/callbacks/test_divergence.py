"""Losses and gradients that are no numbers: the run ends before they are saved, or leaves the step out."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

import segdcn.task
from segdcn.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from segdcn.callbacks.divergence import Divergence
from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.errors import Diverged, UserValueError
from segdcn.task import SegmentationTask

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

STEPS = 3  # of an epoch


class TinyNetwork(nn.Module):
    """An encoder with statistics, and a head."""

    size_divisor = 1

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.segmentation_head = nn.Conv2d(4, 2, 1)

    def forward(self, image):  # noqa: D102
        return self.segmentation_head(self.encoder(image))


@pytest.fixture
def task(monkeypatch):
    monkeypatch.setattr(segdcn.task, "build_deeplab", lambda **_: TinyNetwork())
    torch.manual_seed(0)
    return SegmentationTask(num_classes=2, lr=0.1, encoder_lr_scale=0.5, optimizer="adamw")


def spoil(task, *numbers):
    """Multiply images by NaN in the training batches of these numbers, counted from 1."""
    seen = []

    def hook(module, inputs):
        if module.training:
            seen.append(1)
            return inputs[0] * math.nan if len(seen) in numbers else None

    task.network.register_forward_pre_hook(hook)


def fit(task, folder, callback, epochs=2, more=(), **settings):
    generator = torch.Generator().manual_seed(1)
    samples = [
        {"image": torch.randn(3, 8, 8, generator=generator), "labels": torch.eye(8).long(), "name": str(i)}
        for i in range(2 * STEPS * settings.get("accumulate_grad_batches", 1))
    ]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[callback, BestCheckpoint(folder), LastCheckpoint(folder), *more],
        plugins=[SafeCheckpointIO()],
        enable_model_summary=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
        **settings,
    )
    trainer.fit(task, DataLoader(samples, batch_size=2), DataLoader(samples[:2], batch_size=2))
    return trainer


def load(folder, name="last"):
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize("settings", [{}, {"gradient_clip_val": 1.0}])
def test_a_lost_step_ends_the_run_and_the_checkpoints_are_those_from_before(task, tmp_path, settings):
    spoil(task, STEPS + 2)
    with pytest.raises(Diverged) as error:
        fit(task, tmp_path, Divergence(), **settings)
    message = str(error.value)
    assert message.startswith("the loss is infinite or NaN at step 5, where the largest gradients are those of ")
    assert "(norm nan, " in message and "in the last good step; learning rate 0.0" in message and "\n" not in message
    assert load(tmp_path)["global_step"] == load(tmp_path, "best")["global_step"] == STEPS
    assert all(value.isfinite().all() for value in task.network.parameters())


def test_a_huge_loss_is_lost_too(task, tmp_path):
    task.network.register_forward_hook(lambda module, inputs, logits: logits * 1e6)
    with pytest.raises(Diverged, match=r"the loss is \d\S*, more than divergence.loss_above, which is 100, at step 1"):
        fit(task, tmp_path, Divergence(loss_above=100))
    fit(task, tmp_path, Divergence(loss_above=None))


def test_gradients_are_looked_at_where_the_loss_is_a_number(task, tmp_path):
    task.network.encoder[0].bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(Diverged, match="gradients are infinite or NaN at step 1, .* those of encoder.no_decay"):
        fit(task, tmp_path, Divergence())


class Watch(Callback):
    """Copy all that a step may change, after each batch."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, *args):  # noqa: D102
        state = {name: value.clone() for name, value in pl_module.network.state_dict().items()}
        for i, values in trainer.optimizers[0].state_dict()["state"].items():
            state |= {f"{i} {name}": value.clone() for name, value in values.items()}
        self.states.append(state)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_left_out_changes_nothing(task, tmp_path, caplog, accumulate):
    """Not the weights, not their momentum, not the statistics of normalisation; one of two batches is enough."""
    spoil(task, accumulate + 1)
    watch = Watch()
    with caplog.at_level(logging.WARNING, logger="segdcn"):
        trainer = fit(task, tmp_path, Divergence(skip=1), more=[watch], accumulate_grad_batches=accumulate)
    assert trainer.global_step == 2 * STEPS
    first, second, third = watch.states[accumulate - 1 :: accumulate][:3]
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(second[name], third[name]) for name in second)
    (line,) = caplog.messages
    assert line.startswith("the loss is infinite or NaN at step 2,")
    assert line.endswith("the step is left out (1 of 1 in a row)")


def test_too_many_lost_steps_in_a_row_end_the_run(task, tmp_path, caplog):
    spoil(task, 1, 2, 4, 5, 6)
    with pytest.raises(Diverged, match="at step 6, .*; 2 steps before it were left out; lower model.lr"):
        fit(task, tmp_path, Divergence(skip=2))
    assert sum("the step is left out" in line for line in caplog.messages) == 4
    assert load(tmp_path)["callbacks"]["Divergence"] == {"skipped": 0}


def test_a_lost_validation_ends_the_run_before_it_is_saved(task, tmp_path):
    def hook(module, inputs):
        return None if module.training else inputs[0] * math.nan

    task.network.register_forward_pre_hook(hook)
    with pytest.raises(Diverged, match="the validation loss is infinite or NaN after step 3"):
        fit(task, tmp_path, Divergence())
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*could not find the monitored key")
def test_weights_that_are_no_numbers_are_not_saved(task, tmp_path):
    """The last step of an epoch without a validation, whose update nobody has seen the loss of."""

    class Spoil(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):  # noqa: D102
            if trainer.global_step == 2 * STEPS:
                pl_module.network.segmentation_head.bias.data[0] = math.inf

    with pytest.raises(Diverged, match="1 weights are infinite or NaN after step 6, the first is network.segm"):
        fit(task, tmp_path, Divergence(), more=[Spoil()], limit_val_batches=0)
    assert load(tmp_path)["global_step"] == STEPS


LOSSES = {(1.0, math.nan): True, (99.0, 1.0): True, (1.0, 2.0): False}  # of two processes: lost


def decide(rank, folder):
    """One of two processes, with a loss of its own and gradients that are shared."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.SGD([{"params": [weight], "name": "head", "lr": 0.1}])
    trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=1, global_step=0, precision_plugin=None)
    decided = []
    for losses in LOSSES:
        watching = Divergence(loss_above=10, skip=1)
        watching.on_before_backward(trainer, None, torch.tensor(losses[rank]))
        watching._look = watching._look_at(trainer, optimizer)
        decided.append(watching._settle())
    torch.save(decided, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_decide_alike(tmp_path):
    torch.multiprocessing.spawn(decide, (str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == list(LOSSES.values())


@pytest.mark.parametrize("settings", [{"loss_above": 0.0}, {"skip": -1}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserValueError, match="divergence."):
        Divergence(**settings)
