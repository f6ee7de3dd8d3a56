"""Training and measuring with a network of a few hundred parameters, on random pictures."""

import warnings

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import segdcn.task
from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.task import SegmentationTask

CLASSES = ["sky", "road", "cat"]  # no pixel is a cat


class TinyNetwork(nn.Module):
    """The names that matter: an encoder with a deformable layer, and a head."""

    size_divisor = 1

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), DeformableConv2d(4, 4, 3, padding=1)
        )
        self.segmentation_head = nn.Conv2d(4, num_classes, 1)

    def forward(self, image):  # noqa: D102
        return self.segmentation_head(self.encoder(image))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(segdcn.task, "build_deeplab", lambda num_classes, **_: TinyNetwork(num_classes))


@pytest.fixture(autouse=True)
def third_party_warnings():
    with warnings.catch_warnings():
        # Lightning asks torch's pytree in a way torch deprecates.
        warnings.filterwarnings("ignore", r".*`isinstance\(treespec, LeafSpec\)` is deprecated")
        # Eight pictures in memory need no workers.
        warnings.filterwarnings("ignore", ".*does not have many workers")
        # These tests train and validate in separate calls.
        warnings.filterwarnings("ignore", "You defined a `validation_step` but have no `val_dataloader`")
        yield


def make_task(**settings):
    torch.manual_seed(0)
    return SegmentationTask(num_classes=3, class_names=CLASSES, **settings)


def samples(count=8):
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        labels = torch.randint(0, 2, (8, 8), generator=generator)
        image = torch.randn(3, 8, 8, generator=generator) + 2 * labels
        labels[: number % 3] = 255  # another number of counted pixels in each
        yield {"image": image, "labels": labels, "name": str(number)}


def loader(batch_size=2):
    return DataLoader(list(samples()), batch_size=batch_size)


def trainer(tmp_path, **settings):
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_validation_is_exact_over_the_set_whatever_the_batches(tmp_path):
    """Recomputed by hand from all pixels at once; batches of 3, 3 and 2."""
    task = make_task().eval()
    measured = trainer(tmp_path).validate(task, loader(batch_size=3), verbose=False)[0]

    image = torch.stack([sample["image"] for sample in samples()])
    labels = torch.stack([sample["labels"] for sample in samples()])
    with torch.no_grad():
        logits = task.eval()(image)
    prediction, counted = logits.argmax(1)[labels != 255], labels[labels != 255]
    by_hand = {}
    for index, name in enumerate(CLASSES):
        union = ((prediction == index) | (counted == index)).sum().item()
        if union:
            by_hand[name] = ((prediction == index) & (counted == index)).sum().item() / union
    assert {name: measured[f"val/IoU/{name}"] for name in by_hand} == pytest.approx(by_hand)
    assert measured["val/mIoU"] == pytest.approx(sum(by_hand.values()) / len(by_hand))
    assert measured["val/loss"] == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-5)
    assert measured["val/pixel_accuracy"] == pytest.approx((prediction == counted).float().mean().item())


def test_training_lowers_the_loss(tmp_path):
    task = make_task(lr=0.1)
    before = trainer(tmp_path).validate(task, loader(), verbose=False)[0]["val/loss"]
    trainer(tmp_path, max_epochs=10).fit(task, loader())
    after = trainer(tmp_path).validate(task, loader(), verbose=False)[0]["val/loss"]
    assert after < 0.7 * before


def test_test_measures_the_same_under_its_own_name(tmp_path):
    task = make_task()
    validated = trainer(tmp_path).validate(task, loader(), verbose=False)[0]
    tested = trainer(tmp_path).test(task, loader(), verbose=False)[0]
    assert tested == {name.replace("val/", "test/"): value for name, value in validated.items()}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_offsets_do_not_learn_before_their_warm_up_ends(tmp_path, optimizer):
    """4 batches are steps 0 to 3: with a warm-up of 4 offsets stay, with 3 the last step moves them."""
    for warmup, stays in [(4, True), (3, False)]:
        task = make_task(optimizer=optimizer, offset_warmup_steps=warmup, lr=0.05)
        before = weights(task)
        trainer(tmp_path, max_epochs=1).fit(task, loader())
        changed = {name for name, value in weights(task).items() if not torch.equal(value, before[name])}
        assert "network.encoder.0.weight" in changed
        assert ("network.encoder.2.offset_conv.weight" not in changed) == stays


def test_the_rates_follow_the_schedule_step_by_step(tmp_path):
    """4 steps, 2 of warm-up: 1/2, 1, 1, then (1 - 1/2) at power 1; offsets at a tenth, from step 1."""
    seen = []

    class Spy(SegmentationTask):
        def on_before_optimizer_step(self, optimizer):
            seen.append({group["name"]: group["lr"] for group in optimizer.param_groups})

    task = Spy(num_classes=3, lr=0.4, warmup_steps=2, poly_power=1.0, offset_warmup_steps=1)
    trainer(tmp_path, max_epochs=1).fit(task, loader())
    assert [rates["head"] for rates in seen] == pytest.approx([0.2, 0.4, 0.4, 0.2])
    assert [rates["offset"] for rates in seen] == pytest.approx([0.0, 0.04, 0.04, 0.02])


def rates_of_steps(task, fit):
    """Fit, and note the head's and the offsets' rates at every optimizer step."""
    seen = []

    def note(optimizer):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        seen.append((rates["head"], rates["offset"]))

    task.on_before_optimizer_step = note
    fit.fit(task, loader())
    return seen


def test_the_rates_end_at_min_lr_and_its_share_of_the_others(tmp_path):
    """4 steps from 0.4 towards 0.04 at power 1: 0.04 + 0.36 * (1, 3/4, 1/2, 1/4); offsets at a tenth."""
    seen = rates_of_steps(make_task(lr=0.4, min_lr=0.04, poly_power=1.0), trainer(tmp_path, max_epochs=1))
    assert [head for head, _ in seen] == pytest.approx([0.4, 0.31, 0.22, 0.13])
    assert [offset for _, offset in seen] == pytest.approx([0.04, 0.031, 0.022, 0.013])


def test_the_schedule_counts_optimizer_steps_where_gradients_accumulate(tmp_path):
    """2 epochs of 4 batches, 2 to a step: 4 steps."""
    fit = trainer(tmp_path, max_epochs=2, accumulate_grad_batches=2)
    seen = rates_of_steps(make_task(lr=0.4, warmup_steps=1, poly_power=1.0), fit)
    assert [head for head, _ in seen] == pytest.approx([0.4, 0.4, 0.4 * 2 / 3, 0.4 / 3])


def test_gradients_are_clipped_to_the_norm_that_is_set(tmp_path):
    """One step of SGD moves the weights by lr * gradient: at most 0.1 * 0.001 in all."""
    moved = {}
    for norm in (None, 1e-3):
        task = make_task(lr=0.1, weight_decay=0.0, momentum=0.0, offset_lr_scale=1.0)
        before = [parameter.detach().clone() for parameter in task.parameters()]
        trainer(tmp_path, max_steps=1, gradient_clip_val=norm).fit(task, loader())
        differences = [(now - then).norm() for now, then in zip(task.parameters(), before, strict=True)]
        moved[norm] = torch.stack(differences).norm().item()
    assert moved[1e-3] == pytest.approx(1e-4, rel=1e-3) and moved[None] > 1e-2


def test_the_auxiliary_loss_is_added_with_its_weight(tmp_path, monkeypatch):
    """An auxiliary head that knows nothing costs log(3) whatever it is shown."""

    class WithAuxiliary(TinyNetwork):
        def forward(self, image):
            logits = super().forward(image)
            return (logits, torch.zeros_like(logits)) if self.training else logits

    monkeypatch.setattr(
        segdcn.task,
        "build_deeplab",
        lambda num_classes, auxiliary_head, **_: (WithAuxiliary if auxiliary_head else TinyNetwork)(num_classes),
    )
    batch, losses = next(iter(loader())), {}
    for weight in (0.0, 0.4):
        task = make_task(aux_weight=weight).train()
        task.log = lambda *_, **__: None
        losses[weight] = task.training_step(batch, 0).item()
    assert losses[0.4] - losses[0.0] == pytest.approx(0.4 * torch.tensor(3.0).log().item())
    assert isinstance(task(batch["image"]), torch.Tensor)  # logits alone, in training too


def test_class_weights_given_later_are_what_a_checkpoint_keeps(tmp_path):
    task = make_task(class_weights="balanced")
    with pytest.raises(UserValueError, match="nobody has computed them"):
        trainer(tmp_path, max_epochs=1).fit(task, loader())
    task.set_class_weights([0.5, 2.0, 1.0])
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(task, loader())
    fit.save_checkpoint(tmp_path / "a.ckpt")
    again = SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert again.hparams["class_weights"] == [0.5, 2.0, 1.0]
    assert again.loss.class_weights.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"min_lr": 0.02, "lr": 0.01}, "model.min_lr is 0.02; expected a rate from 0 to model.lr, which is 0.01"),
        ({"aux_weight": -1.0}, "model.aux_weight is -1.0"),
        ({"lr_batch": 0}, "model.lr_batch is 0"),
        ({"ema_decay": 1.0}, "model.ema_decay is 1.0"),
        ({"class_weights": [1.0]}, "1 class_weights for 3 classes"),
        ({"class_weights": "balanced", "loss": {"dice": 1.0}}, "are for the loss cross_entropy; add it"),
    ],
)
def test_settings_of_training_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserValueError) as caught:
        make_task(**settings)
    assert message in str(caught.value)


def test_a_batch_of_ignored_pixels_does_not_end_training(tmp_path):
    task = make_task(weight_decay=0.0)
    ignored = [sample | {"labels": torch.full((8, 8), 255)} for sample in samples()]
    before = weights(task.network.segmentation_head)
    trainer(tmp_path, max_steps=1).fit(task, DataLoader(ignored, batch_size=2))
    assert all(torch.equal(value, before[name]) for name, value in weights(task.network.segmentation_head).items())


def test_a_schedule_without_end_is_refused(tmp_path):
    with pytest.raises(UserValueError, match="set trainer.max_epochs or trainer.max_steps"):
        trainer(tmp_path, max_epochs=-1).fit(make_task(), loader())


def test_a_checkpoint_rebuilds_itself(tmp_path, monkeypatch):
    """Without a YAML, with weights_only=True, and without asking for pretrained weights again."""
    asked = []
    monkeypatch.setattr(
        segdcn.task,
        "build_deeplab",
        lambda num_classes, encoder_weights, **_: asked.append(encoder_weights) or TinyNetwork(num_classes),
    )
    palette = [[0, 0, 0], [1, 2, 3], [255, 255, 255]]
    task = make_task(encoder_weights="imagenet", palette=palette, mean=[0.5] * 3, std=[0.25] * 3, lr=0.03)
    first = trainer(tmp_path, max_epochs=1)
    first.fit(task, loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    again = SegmentationTask.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True).eval()
    assert asked == ["imagenet", None]
    assert again.class_names == CLASSES
    assert again.hparams["palette"] == palette and again.hparams["lr"] == 0.03
    image = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(image), task.eval()(image))


def test_what_is_set_now_wins_over_the_optimizer_of_a_checkpoint(tmp_path):
    first = trainer(tmp_path, max_epochs=1)
    first.fit(make_task(lr=0.1, weight_decay=0.3), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")

    task = make_task(lr=0.01, weight_decay=0.5, momentum=0.8, poly_power=0.0)
    second = trainer(tmp_path, max_epochs=2)
    second.fit(task, loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert second.global_step == 8
    group = second.optimizers[0].param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.01, 0.5, 0.8)
    assert second.optimizers[0].state  # the momentum itself went on


def test_another_optimizer_cannot_go_on(tmp_path):
    first = trainer(tmp_path, max_epochs=1)
    first.fit(make_task(), loader())
    first.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserValueError, match="model.optimizer is adamw"):
        trainer(tmp_path, max_epochs=2).fit(
            make_task(optimizer="adamw"), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True
        )


def test_compiling_keeps_the_names_of_the_weights(monkeypatch):
    plain, compiled = make_task(), make_task(compile=True)
    compiled.setup("fit")
    assert compiled.network._compiled_call_impl is not None
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_the_network_works_on_channels_last():
    seen = []
    task = make_task()
    task.network.segmentation_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    task(torch.randn(2, 3, 8, 8))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert task.network.encoder[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(UserValueError, match="2 class_names for 3 classes"):
        SegmentationTask(num_classes=3, class_names=["a", "b"])


def test_windows_and_mirroring_are_settings_of_the_task(tmp_path):
    """8x8 pictures in windows of 4x8 with an overlap of 0: two windows, each also mirrored; trained on as a whole."""
    seen = []
    task = make_task(eval_window=[4, 8], eval_overlap=0.0, eval_flip=True)
    task.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    trainer(tmp_path).validate(task, loader(batch_size=8), verbose=False)
    assert seen == [(8, 3, 4, 8)] * 4
    seen.clear()
    trainer(tmp_path, max_steps=1).fit(task, loader(batch_size=8))
    assert seen == [(8, 3, 8, 8)]


def test_padding_that_only_the_batch_has_does_not_count():
    """The same pictures, as they are and with columns and rows that a collation added; seen at half the size too."""
    image, labels = torch.randn(2, 3, 6, 8), torch.randint(3, (2, 6, 8))
    padded = {"image": F.pad(image, (0, 4, 0, 5)), "labels": F.pad(labels, (0, 4, 0, 5), value=255)}
    task = make_task(eval_scales=[0.5, 1.0]).eval()
    with torch.no_grad():
        assert torch.equal(task._evaluate({**padded, "size": [(6, 8), (6, 8)]}), task.inference(task, image).argmax(1))
        assert int(task.evaluation.confusion.matrix.sum()) == 2 * 6 * 8
        # Of pictures of two sizes the smaller one is padded in any case.
        mixed = task._evaluate({**padded, "size": [(6, 8), (11, 12)]})
        assert torch.equal(mixed, task.inference(task, padded["image"]).argmax(1))


@pytest.mark.parametrize("detail,in_fit,in_validate", [("outside_fit", 0, 1), ("always", 1, 1), ("never", 0, 0)])
def test_costly_measures_are_made_where_they_are_asked_for(tmp_path, detail, in_fit, in_validate):
    task = make_task(eval_detail=detail)
    costly = {"val/boundary_mIoU", "val/mIoU_small_objects", "val/calibration_error"}
    fitting = trainer(tmp_path, max_epochs=1)
    fitting.fit(task, loader(), loader())
    assert costly & fitting.callback_metrics.keys() == (costly if in_fit else set())
    measured = trainer(tmp_path).validate(task, loader(), verbose=False)[0]
    assert costly & measured.keys() == (costly if in_validate else set())
    # No object of an 8x8 picture is large: what is not defined is not logged.
    assert "val/mIoU_large_objects" not in measured


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"eval_window": [4, 8, 8]}, "one number, or"),
        ({"eval_window": 0}, "window of evaluation"),
        ({"eval_overlap": 1.5}, "overlap"),
    ],
)
def test_evaluation_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        make_task(**settings)
