"""Offsets in training: numbers in the loggers, warnings, and the end of a run whose offsets are lost."""

import logging
import math
import warnings

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

import segdcn.task
from segdcn.callbacks.offset_health import OffsetHealth
from segdcn.callbacks.reading import read_offsets
from segdcn.errors import UserError, UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.loggers import CSVLog
from segdcn.task import SegmentationTask

LAYER = "offsets/encoder.2"


class TinyNetwork(nn.Module):
    """An encoder with one deformable layer, or none, and a head."""

    size_divisor = 1

    def __init__(self, deform_layers: int) -> None:
        super().__init__()
        last = DeformableConv2d(4, 4, 3, padding=1) if deform_layers else nn.Conv2d(4, 4, 3, padding=1)
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), last)
        self.segmentation_head = nn.Conv2d(4, 2, 1)

    def forward(self, image):  # noqa: D102
        return self.segmentation_head(self.encoder(image))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(segdcn.task, "build_deeplab", lambda deform_layers, **_: TinyNetwork(deform_layers))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", "Found 1 module.s. in eval mode")  # on purpose
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
        yield


def make_task(**settings):
    torch.manual_seed(0)
    return SegmentationTask(num_classes=2, **settings)


def fit(task, callback, tmp_path, steps=6, **settings):
    generator = torch.Generator().manual_seed(1)
    sample = {"image": torch.randn(3, 8, 8, generator=generator), "labels": torch.eye(8, dtype=torch.long), "name": "a"}
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=steps,
        logger=CSVLog(tmp_path / "metrics.csv"),
        callbacks=[callback],
        log_every_n_steps=4,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **settings,
    )
    trainer.fit(task, DataLoader([sample] * 12, batch_size=2))
    return trainer


def rows(tmp_path, key=f"{LAYER}/mean"):
    return [row for row in CSVLog(tmp_path / "metrics.csv")._read_rows() if row.get(key)]


def test_every_n_steps_the_numbers_reach_the_loggers_also_off_the_logging_steps(tmp_path):
    task = make_task(offset_lr_scale=1.0, lr=0.5)
    callback = OffsetHealth(every_n_steps=3)
    fit(task, callback, tmp_path)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["2", "5"]
    assert 0 < float(found[0][f"{LAYER}/mean"]) <= float(found[0][f"{LAYER}/p95"])
    assert 0 < float(found[0][f"{LAYER}/outside"]) < 1 and float(found[0][f"{LAYER}/saturated"]) == 0
    assert callback.stopwatch.seconds > 0


def test_the_gradient_norm_is_that_of_all_offset_parameters_before_clipping(tmp_path):
    task = make_task(lr=0.0, offset_lr_scale=1.0)
    fit(task, OffsetHealth(every_n_steps=1), tmp_path, steps=1)
    (row,) = rows(tmp_path)
    parameters = [p for name, p in task.named_parameters() if "offset_conv" in name]
    expected = math.sqrt(sum(p.grad.square().sum().item() for p in parameters))
    assert expected > 0 and float(row["offsets/grad_norm"]) == pytest.approx(expected)
    fit(make_task(lr=0.0), OffsetHealth(every_n_steps=1), tmp_path, steps=1, gradient_clip_val=expected / 100)
    assert float(rows(tmp_path)[-1]["offsets/grad_norm"]) == pytest.approx(expected)


def test_accumulated_batches_are_one_step(tmp_path):
    fit(make_task(), OffsetHealth(every_n_steps=1), tmp_path, steps=2, accumulate_grad_batches=3)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1"]


@pytest.mark.parametrize("task_settings,every", [({"deform_layers": 0}, 1), ({}, 0)])
def test_a_plain_network_and_zero_steps_do_nothing(task_settings, every, tmp_path):
    callback = OffsetHealth(every_n_steps=every)
    fit(make_task(**task_settings), callback, tmp_path)
    assert callback.stopwatch.seconds == 0 and not rows(tmp_path)


def test_training_with_and_without_a_look_is_the_same(tmp_path):
    """Neither running statistics nor random numbers nor the modes of modules change."""
    states = []
    for every in (0, 1):
        task = make_task(lr=0.1)
        task.network.encoder[0].eval()  # as a user may freeze a part
        fit(task, OffsetHealth(every_n_steps=every), tmp_path)
        states.append({name: value.clone() for name, value in task.state_dict().items()})
        assert not task.network.encoder[0].training and task.network.encoder[1].training
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_dead_offsets_are_warned_of_once_and_not_before_they_had_time_to_learn(tmp_path, caplog):
    task = make_task(offset_lr_scale=0.0, offset_warmup_steps=2)
    with caplog.at_level(logging.WARNING, logger="segdcn"):
        fit(task, OffsetHealth(every_n_steps=1, dead_after=2), tmp_path)
    (line,) = caplog.messages
    assert line.startswith(
        "offsets are dead after 2 steps of learning: 95 % are shorter than 0.01 dilations in encoder.2"
    )
    assert "raise model.offset_lr_scale, now 0" in line


def test_exploding_offsets_are_warned_of_once(tmp_path, caplog):
    task = make_task()
    task.network.encoder[2].offset_conv.bias.data[:18] = 50.0
    with caplog.at_level(logging.WARNING, logger="segdcn"):
        fit(task, OffsetHealth(every_n_steps=1), tmp_path)
    (line,) = caplog.messages
    assert line.startswith("offsets explode at step 1: 5 % are longer than 10 dilations in encoder.2")


def test_offsets_that_are_no_numbers_end_the_run_though_the_loss_is_one(tmp_path):
    task = make_task(lr=0.0)
    task.network.encoder[2].offset_conv.bias.data[0] = math.nan
    image = torch.randn(1, 3, 8, 8)
    assert task(image).isfinite().all()
    with pytest.raises(
        UserError, match="the offsets of encoder.2 are infinite or NaN at step 1: .*lower model.lr"
    ) as error:
        fit(task, OffsetHealth(every_n_steps=1), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings,message",
    [({"every_n_steps": -1}, "offset_health.every_n_steps is -1"), ({"dead_below": 20.0}, "offset_health.dead_below")],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        OffsetHealth(**settings)


def test_reading_gives_what_evaluation_sees():
    task = make_task()
    nn.init.normal_(task.network.encoder[2].offset_conv.weight)
    image = torch.randn(1, 3, 8, 8)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (field,) = read_offsets(trainer, task.train(), image)
    assert task.network.encoder[1].training
    task.eval()
    encoder = task.network.encoder
    offset, _ = encoder[2].predict_offsets(encoder[1](encoder[0](image)))
    assert torch.equal(field.offset.flatten(0, 2)[None], offset)
