"""Which images are shown, when, at what cost, and that looking leaves the network as it was."""

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

import segdcn.task
from segdcn.callbacks.pictures import Pictures
from segdcn.callbacks.reading import predict
from segdcn.callbacks.shown import chosen_indices, look
from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.task import SegmentationTask


class Counting(nn.Module):
    """An encoder with a deformable layer and a normalisation, and a head; keeps the sizes that it has run on."""

    size_divisor = 1

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(DeformableConv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.segmentation_head = nn.Conv2d(4, 2, 1)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image):  # noqa: D102
        self.sizes.append(tuple(image.shape[2:]))
        return self.segmentation_head(self.encoder(image))


@pytest.fixture
def make_task(monkeypatch):
    monkeypatch.setattr(segdcn.task, "build_deeplab", lambda **_: Counting())
    torch.manual_seed(0)
    return lambda **settings: SegmentationTask(num_classes=2, deform_layers=1, **settings)


@pytest.fixture
def trainer():
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


def test_the_same_images_are_chosen_by_a_seed_and_each_is_there_once():
    chosen = chosen_indices(101, 5, seed=0)
    assert chosen == chosen_indices(101, 5, seed=0) == sorted(set(chosen)) and len(chosen) == 5
    assert chosen != chosen_indices(101, 5, seed=1)
    assert chosen_indices(3, 4, seed=0) == [0, 1, 2]
    assert chosen_indices(4, 0, seed=0) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"count": -1}, "pictures.count is -1"),
        ({"every_n_validations": -1}, "pictures.every_n_validations is -1"),
        ({"max_share": 1.5}, "pictures.max_share is 1.5; expected a share from 0 to 1"),
        ({"max_side": 0}, "pictures.max_side is 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, said):
    with pytest.raises(UserValueError, match=said):
        Pictures(**setting)


def test_parts_are_left_out_from_the_first_that_costs_too_much(make_task, trainer, monkeypatch):
    """100 s of training; pictures have taken 0.5 s, and a part each as long as it says."""
    monkeypatch.setattr("segdcn.callbacks.pictures.wandb_log", lambda loggers: object())
    monkeypatch.setattr("segdcn.callbacks.pictures.time.perf_counter", lambda: 100.0)
    callback = Pictures(max_share=0.01)
    callback.stopwatch.seconds = 0.5
    callback._took = {"samples": 0.2, "confusion": 0.4, "offsets": 2.0}
    assert callback._affordable(trainer, make_task()) == ["samples"]
    callback.max_share = 0.02
    assert callback._affordable(trainer, make_task()) == ["samples", "confusion"]
    callback.max_share = 1.0
    assert callback._affordable(trainer, make_task()) == ["samples", "confusion", "offsets"]
    task = make_task()
    task.hparams["deform_layers"] = 0
    assert callback._affordable(trainer, task) == ["samples", "confusion"]
    callback.max_share = 0.0
    assert callback._affordable(trainer, task) == []


def test_looking_leaves_every_module_in_its_own_mode(make_task, trainer):
    task = make_task()
    task.train()
    task.network.encoder[1].eval()  # frozen
    before = {name: module.training for name, module in task.named_modules()}
    statistics = task.network.encoder[1].running_mean.clone()
    image = torch.randn(1, 3, 8, 12)
    prediction = predict(trainer, task, image)
    shown = look(trainer, task, "a", image[0], torch.zeros(8, 12, dtype=torch.long), prediction, with_offsets=True)
    assert len(shown.fields) == 1
    assert {name: module.training for name, module in task.named_modules()} == before
    assert torch.equal(task.network.encoder[1].running_mean, statistics)


def test_windows_of_evaluation_are_what_is_predicted_and_drawn(make_task, trainer):
    """8x12 in windows of 8x8: two predict, and the one in the middle is asked for its offsets."""
    task = make_task(eval_window=[8, 8], eval_overlap=0.5)
    image = torch.randn(1, 3, 8, 12)
    prediction = predict(trainer, task, image)
    assert task.network.sizes == [(8, 8), (8, 8)]
    assert torch.equal(prediction, task.eval().inference(task, image).argmax(1)[0])
    shown = look(trainer, task, "a", image[0], torch.zeros(7, 11, dtype=torch.long), prediction, with_offsets=True)
    assert shown.seen == (slice(0, 8), slice(2, 10))
    assert shown.fields[0].output_size == (8, 8)
    assert shown.prediction.shape == shown.labels.shape == shown.image.shape[1:] == (7, 11)


def test_without_offsets_asked_for_no_pass_is_made(make_task, trainer, monkeypatch):
    monkeypatch.setattr("segdcn.callbacks.shown.read_offsets", lambda *_: pytest.fail("asked"))
    maps = torch.randn(3, 8, 8), torch.zeros(8, 8, dtype=torch.long), torch.zeros(8, 8, dtype=torch.long)
    assert look(trainer, make_task(), "a", *maps, with_offsets=False).fields == []
