"""Effective dilation of validation objects: collected over the pass, logged, drawn."""

import csv
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from torch import nn

import segdcn.callbacks.effective_dilation as callbacks
import segdcn.task
from segdcn import offsets
from segdcn.callbacks.effective_dilation import EffectiveDilationLog
from segdcn.data import Shapes, shapes
from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.offsets import regions
from segdcn.task import SegmentationTask

KEY = "offsets/encoder.1/effective_dilation"


class TinyNetwork(nn.Module):
    """An encoder whose deformable layer reads three times as far apart as a plain one, and a head."""

    size_divisor = 4

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layer = DeformableConv2d(4, 4, 3, padding=1)
        taps = torch.cartesian_prod(torch.arange(-1.0, 2), torch.arange(-1.0, 2))
        layer.offset_conv.bias.data[:18] = 2 * taps.flatten()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), layer)
        self.segmentation_head = nn.Sequential(nn.Conv2d(4, num_classes, 1), nn.Upsample(scale_factor=4))

    def forward(self, image):  # noqa: D102
        return self.segmentation_head(self.encoder(image))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    shapes.make(folder, train=4, val=3, size=36)
    return folder


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(segdcn.task, "build_deeplab", lambda num_classes, **_: TinyNetwork(num_classes))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*`isinstance\(treespec, LeafSpec\)` is deprecated")
        warnings.filterwarnings("ignore", ".*does not have many workers")
        yield


def task_and_data(root, **settings):
    torch.manual_seed(0)
    data = Shapes(str(root), batch_size=2, eval_batch_size=2, num_workers=0, crop_size=32)
    return SegmentationTask(num_classes=7, class_names=list(data.class_names), lr=0.0, **settings), data


def trainer(tmp_path, callback, **settings):
    silent = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        callbacks=[callback],
        enable_progress_bar=False,
        **silent,
        **settings,
    )


def test_a_validation_pass_collects_every_object_of_the_set(root, tmp_path):
    task, data = task_and_data(root)
    callback = EffectiveDilationLog(sizes=(60, 120))
    running = trainer(tmp_path, callback)
    running.validate(task, data, verbose=False)
    expected = []
    for sample in data.samples("val"):
        labels, instances = (np.asarray(Image.open(path)) for path in (sample.labels, sample.instances))
        expected += [(region.label, region.area, region.background) for region in regions(labels, instances)]
    assert [row[:3] for row in callback.found.rows] == expected
    logged = {key: float(value) for key, value in running.callback_metrics.items() if key.startswith(KEY)}
    present = {name for name, values in callback.found.by_size().items() if len(values)}
    assert len(present) > 1 and logged == {f"{KEY}/{name}": pytest.approx(3.0) for name in present}
    assert callback.history == []  # nothing was trained

    pictures = tmp_path / "pictures"
    assert {path.name for path in pictures.iterdir()} == {"effective_dilation.png", "effective_dilation.csv"}
    with (pictures / "effective_dilation.csv").open(newline="") as file:
        table = {row["group"]: row for row in csv.DictReader(file)}
    assert float(table["background"]["encoder.1 mean"]) == pytest.approx(3.0)
    assert float(table["background"]["encoder.1 std"]) == pytest.approx(0.0)
    sizes = sum(int(table[name]["objects"]) for name in ("small", "medium", "large") if name in table)
    assert sizes == sum(not background for *_, background in expected)


def test_the_course_is_drawn_and_goes_on_after_resuming(root, tmp_path):
    task, data = task_and_data(root)
    callback = EffectiveDilationLog(images=1)
    trainer(tmp_path, callback, max_epochs=2).fit(task, data)
    assert [step for step, _ in callback.history] == [2, 4]
    assert (tmp_path / "pictures" / "effective_dilation_course.png").stat().st_size > 1000
    resumed = EffectiveDilationLog(images=1)
    resumed.load_state_dict(callback.state_dict())
    trainer(tmp_path, resumed, max_epochs=1).fit(task, data)
    assert [step for step, _ in resumed.history] == [2, 4, 2]


def test_as_many_images_are_asked_as_wanted(root, tmp_path):
    task, data = task_and_data(root)
    callback = EffectiveDilationLog(images=1)
    running = trainer(tmp_path, callback)
    running.validate(task, data, verbose=False)
    names = {row[0] for row in callback.found.rows}
    sample = data.samples("val")[0]
    assert names == set(np.unique(np.asarray(Image.open(sample.labels))).tolist())


@pytest.mark.parametrize("settings", [{}, {"eval_flip": True}])
def test_the_pass_of_validation_is_listened_to_where_it_shows_the_whole_image(settings, root, tmp_path, monkeypatch):
    """And a pass of its own, where views are combined, finds the same."""
    asked = []
    whole = callbacks.read_offsets
    monkeypatch.setattr(callbacks, "read_offsets", lambda *given: asked.append(1) or whole(*given))
    task, data = task_and_data(root, **settings)
    layer = task.network.encoder[1]
    nn.init.normal_(layer.offset_conv.weight, std=0.1)  # reads elsewhere in every image
    callback = EffectiveDilationLog(images=2)
    running = trainer(tmp_path, callback)
    running.validate(task, data, verbose=False)
    assert len(asked) == (2 if settings else 0)
    assert not layer._forward_pre_hooks
    expected = offsets.EffectiveDilation(background=0)
    for sample in data.eval_dataset("val").samples[:2]:
        item = data.eval_dataset("val")[data.samples("val").index(sample)]
        image = data.val_dataloader().collate_fn([item])["image"]
        fields = offsets.record(task.network.encoder, task.network, image)
        labels, instances = (np.asarray(Image.open(path)) for path in (sample.labels, sample.instances))
        expected.add(fields, labels, instances)
    assert callback.found.rows == [(*row[:3], pytest.approx(row[3], rel=1e-5)) for row in expected.rows]
    assert len({round(value, 3) for *_, (value,) in callback.found.rows}) > 2
    assert callback.stopwatch.seconds > 0


@pytest.mark.parametrize("images,task_settings", [(0, {}), (5, {"deform_layers": 0})])
def test_no_images_and_plain_networks_leave_nothing(images, task_settings, root, tmp_path):
    task, data = task_and_data(root, **task_settings)
    running = trainer(tmp_path, EffectiveDilationLog(images=images))
    running.validate(task, data, verbose=False)
    assert not list(tmp_path.iterdir()) and not any(key.startswith("offsets") for key in running.callback_metrics)


def test_a_negative_count_is_refused():
    with pytest.raises(UserValueError, match="effective_dilation.images is -1"):
        EffectiveDilationLog(images=-1)
