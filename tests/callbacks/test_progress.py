import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from segdcn.callbacks import progress
from segdcn.callbacks.progress import Bar, Lines

pytestmark = [
    # Lightning asks torch's pytree in a way torch deprecates; the demo's data needs no workers.
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Model(BoringModel):
    """Logs what the task logs; every batch's loss is its number, 0 to 3."""

    def training_step(self, batch, batch_idx):  # noqa: D102
        loss = super().training_step(batch, batch_idx)["loss"] * 0 + batch_idx
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):  # noqa: D102
        self.log("val/mIoU", 0.25)


def fit(callback, tmp_path, **settings):
    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_train_batches=4,
        limit_val_batches=2,
        log_every_n_steps=1,
        callbacks=[callback],
        **settings,
    )
    trainer.fit(Model())
    return trainer


def test_a_log_gets_one_line_per_epoch(tmp_path, capsys):
    """The mean loss of 0, 1, 2 and 3 is 1.5, not the last batch's 3."""
    fit(Lines(), tmp_path, max_epochs=2, enable_progress_bar=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss 1.5000  mIoU 0.2500  ") and " left" in first
    assert second.startswith("epoch 2/2  loss 1.5000  mIoU 0.2500  ") and " left" not in second


def test_a_long_epoch_says_how_far_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    fit(Lines(), tmp_path, max_epochs=1, enable_progress_bar=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("epoch 1/1  loss 0.5000  batch 2/4") for line in lines)
    assert "validation  batch 1/2" in lines


def test_the_bar_shows_loss_and_miou_and_counts_from_one(tmp_path):
    bar = Bar()
    trainer = fit(bar, tmp_path, max_epochs=2)
    assert bar.get_metrics(trainer, trainer.lightning_module) == {"loss": 3.0, "mIoU": 0.25}
    assert bar._get_train_description(0).strip() == "Epoch 1/2"


def test_the_loss_is_that_of_the_batches_also_where_gradients_accumulate(tmp_path, capsys):
    fit(Lines(), tmp_path, max_epochs=1, enable_progress_bar=False, accumulate_grad_batches=2)
    assert capsys.readouterr().out.startswith("epoch 1/1  loss 1.5000  ")


def test_an_epoch_without_validation_shows_no_miou(tmp_path, capsys):
    fit(Lines(), tmp_path, max_epochs=3, enable_progress_bar=False, check_val_every_n_epoch=2)
    assert ["mIoU" in line for line in capsys.readouterr().out.splitlines()] == [False, True, False]
