import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel

from segdcn.callbacks.plan import Plan, scaled_rate

pytestmark = [
    # Lightning asks torch's pytree in a way torch deprecates; the demo's data needs no workers.
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Model(BoringModel):
    """Has the settings that matter."""

    def __init__(self, lr=0.01, lr_batch=None, optimizer="sgd"):
        super().__init__()
        self.save_hyperparameters()


def plan_of(capsys, model, batch_size=4, ckpt_path=None, save=None, **settings):
    """Train on 10 batches an epoch and give what was printed."""
    data = BoringDataModule()
    data.batch_size = batch_size
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_train_batches=10,
        limit_val_batches=0,
        callbacks=[Plan()],
        **settings,
    )
    trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return capsys.readouterr().out.splitlines()


def test_it_says_steps_epochs_and_images(capsys):
    assert plan_of(capsys, Model(), max_epochs=2) == ["segdcn: training: 20 steps of 4 images, 2 epochs of 10 steps"]
    assert plan_of(capsys, Model(), max_epochs=-1, max_steps=15) == [
        "segdcn: training: 15 steps of 4 images, 1.5 epochs of 10 steps"
    ]


def test_accumulated_batches_count_as_one_step(capsys):
    """10 batches, 4 to a step: 3 steps, the last of 2 batches."""
    (line,) = plan_of(capsys, Model(lr_batch=16), max_epochs=2, accumulate_grad_batches=4)
    assert line == "segdcn: training: 6 steps of 16 images (4 x 4 accumulated x 1 in parallel), 2 epochs of 3 steps"


def test_a_rate_made_for_another_batch_is_warned_of_and_left_alone(capsys):
    model = Model(lr=0.01, lr_batch=16)
    _, warning = plan_of(capsys, model, max_epochs=1)
    assert warning == (
        "segdcn: warning: model.lr 0.01 was chosen for 16 images a step, here are 4; "
        "the usual rule gives --model.lr 0.0025 --model.lr_batch 4; nothing was changed"
    )
    assert model.hparams["lr"] == 0.01


def test_a_resumed_run_says_where_it_goes_on(capsys, tmp_path):
    plan_of(capsys, Model(), max_epochs=1, save=tmp_path / "a.ckpt")
    (line,) = plan_of(capsys, Model(), max_epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert line == "segdcn: training: 30 steps of 4 images, 3 epochs of 10 steps; goes on from step 10"


def test_the_usual_rules():
    """Twice the rate for twice the images with SGD; AdamW's grows with the square root."""
    assert scaled_rate(0.01, 2, "sgd") == pytest.approx(0.02)
    assert scaled_rate(0.01, 4, "adamw") == pytest.approx(0.02)
