"""Averaging, by hand, on a network of a few hundred parameters and random pictures."""

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader

import segdcn.task
from segdcn.callbacks.averaging import AveragedWeights
from segdcn.task import SegmentationTask

pytestmark = [
    # Lightning asks torch's pytree in a way torch deprecates; pictures in memory need no workers.
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    def build(num_classes, **_):
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, num_classes, 1)
        network = nn.Sequential(*layers)
        network.size_divisor = 1
        return network

    monkeypatch.setattr(segdcn.task, "build_deeplab", build)


def make_task(**settings):
    torch.manual_seed(0)
    return SegmentationTask(num_classes=2, lr=0.3, poly_power=0.0, **settings)


def loader():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (8, 8, 8), generator=generator)
    images = torch.randn(8, 3, 8, 8, generator=generator) + 2 * labels[:, None]
    return DataLoader(
        [{"image": i, "labels": k, "name": str(n)} for n, (i, k) in enumerate(zip(images, labels, strict=True))],
        batch_size=2,
    )


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Watch(Callback):
    """Keep the weights after every batch, in every validation, and when training ends; save after every epoch."""

    def __init__(self, path):
        self.path = path
        self.trained, self.validated, self.at_end = [], [], None

    def on_train_epoch_end(self, trainer, pl_module):  # noqa: D102
        trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer, pl_module, *_):  # noqa: D102
        self.trained.append(copied(pl_module.network))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, *_):  # noqa: D102
        if batch_idx == 0:
            self.validated.append(copied(pl_module.network))

    def on_fit_end(self, trainer, pl_module):  # noqa: D102
        self.at_end = copied(pl_module.network)


def fit(tmp_path, decay, epochs=1, ckpt_path=None, **settings):
    """Train; the task's setting says what is saved, as in `segdcn fit`."""
    task, watch = make_task(ema_decay=decay), Watch(tmp_path / f"{decay}-{epochs}.ckpt")
    callbacks = [watch] if decay is None else [AveragedWeights(decay), watch]
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        max_epochs=epochs,
        callbacks=callbacks,
        **settings,
    )
    trainer.fit(task, loader(), loader(), ckpt_path=ckpt_path, weights_only=True)
    return task, watch, trainer


def by_hand(states, decay, start):
    """Step for step: d = min(decay, t / (t + 9)) of the average, and the rest of the new."""
    mean = dict(start)
    for t, state in enumerate(states, start=1):
        d = min(decay, t / (t + 9))
        for name, value in state.items():
            mean[name] = d * mean[name] + (1 - d) * value if value.is_floating_point() else value
    return mean


@pytest.mark.parametrize("decay", [0.15, 0.999])  # the first is reached with the second step
def test_the_average_and_the_statistics_of_normalisation_by_hand(tmp_path, decay):
    task, watch, _ = fit(tmp_path, decay)
    expected = by_hand(watch.trained, decay, start=copied(make_task().network))
    found = copied(task.network)
    assert found["1.num_batches_tracked"] == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    for name in ("0.weight", "1.weight", "1.running_mean"):
        assert (found[name] - watch.trained[-1][name]).abs().max() > 1e-3, name


def test_training_itself_is_as_without_averaging(tmp_path):
    plain, averaged = (fit(tmp_path, decay, epochs=2)[1] for decay in (None, 0.9))
    assert len(plain.trained) == 8
    assert all(equal(a, b) for a, b in zip(plain.trained, averaged.trained, strict=True))


def test_validation_measures_the_average_and_reads_its_own_counts(tmp_path):
    """What fit logs is what the saved weights give when they are measured alone."""
    task, watch, trainer = fit(tmp_path, 0.9)
    expected = by_hand(watch.trained, 0.9, start=copied(make_task().network))
    for name, value in expected.items():
        torch.testing.assert_close(watch.validated[0][name], value, rtol=1e-5, atol=1e-6)
    seen = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    alone = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    again = alone.validate(task, loader(), verbose=False)[0]
    assert {name: again[name] for name in seen} == seen  # validate measures more than fit does
    assert equal(watch.at_end, watch.validated[0])  # pictures are drawn with it


def test_one_update_for_each_optimizer_step_where_gradients_accumulate(tmp_path):
    task, watch, _ = fit(tmp_path, 0.9, accumulate_grad_batches=2)
    expected = by_hand(watch.trained[1::2], 0.9, start=copied(make_task().network))
    for name, value in expected.items():
        torch.testing.assert_close(copied(task.network)[name], value, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_rebuilds_the_average(tmp_path):
    watch = fit(tmp_path, 0.9)[1]
    task = SegmentationTask.load_from_checkpoint(watch.path, weights_only=True)
    assert equal(copied(task.network), watch.at_end)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create")
def test_averaging_can_begin_and_end_with_a_resumption(tmp_path):
    """The training weights go on in both cases, as in a run that never averaged."""
    whole = fit(tmp_path, None, epochs=2)[1].trained
    for before, after in ((None, 0.9), (0.9, None), (0.9, 0.9)):
        task, watch, _ = fit(tmp_path, after, epochs=2, ckpt_path=fit(tmp_path, before)[1].path)
        assert all(equal(a, b) for a, b in zip(watch.trained, whole[4:], strict=True)), (before, after)
        assert equal(copied(task.network), whole[-1]) == (after is None)
    assert equal(copied(task.network), copied(fit(tmp_path, 0.9, epochs=2)[0].network))
