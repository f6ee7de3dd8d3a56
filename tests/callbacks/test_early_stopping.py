import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from segdcn.callbacks.early_stopping import EarlyStop, StopEarly
from segdcn.errors import UserValueError

pytestmark = [
    # Lightning asks torch's pytree in a way torch deprecates; the demo's data needs no workers.
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Model(BoringModel):
    """Validates to a given series, one number an epoch."""

    def __init__(self, series):
        super().__init__()
        self.series = series

    def on_validation_epoch_end(self):  # noqa: D102
        value = self.series[self.trainer.current_epoch]
        self.log_dict({"val/mIoU": value, "val/loss": value})


def epochs_of(series, ckpt_path=None, save=None, max_epochs=None, **when):
    """Fit until it stops or the series ends; how many epochs that took."""
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_train_batches=1,
        limit_val_batches=1,
        max_epochs=max_epochs or len(series),
        callbacks=[StopEarly(EarlyStop(**when))],
    )
    trainer.fit(Model(series), ckpt_path=ckpt_path, weights_only=True)
    if save:
        trainer.save_checkpoint(save)
    return trainer.current_epoch


def test_it_stops_after_so_many_validations_without_a_new_best(capsys):
    """0.5 is the best; 0.4 and 0.5 are not better."""
    assert epochs_of([0.3, 0.5, 0.4, 0.5, 0.9], patience=2) == 4
    assert capsys.readouterr().out == "segdcn: stopped early: no better val/mIoU than 0.5000 in 2 validations\n"
    assert epochs_of([0.3, 0.5, 0.4, 0.5, 0.9], patience=3) == 5
    assert capsys.readouterr().out == ""


def test_a_loss_shall_fall():
    assert epochs_of([0.5, 0.3, 0.2, 0.4, 0.4], monitor="val/loss", patience=2) == 5
    assert epochs_of([0.5, 0.6, 0.7, 0.1], monitor="val/loss", patience=2) == 3


def test_less_than_min_delta_is_not_better():
    assert epochs_of([0.5, 0.51, 0.52, 0.53, 0.9], patience=2, min_delta=0.1) == 3


def test_a_resumed_run_is_as_patient(tmp_path):
    assert epochs_of([0.5, 0.4], patience=2, save=tmp_path / "a.ckpt") == 2
    assert epochs_of([0.5, 0.4, 0.4, 0.9], patience=2, ckpt_path=tmp_path / "a.ckpt") == 3


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -0.1}])
def test_no_patience_at_all_is_refused(settings):
    with pytest.raises(UserValueError, match="early_stopping has patience"):
        StopEarly(EarlyStop(**settings))


def test_a_measure_that_nobody_takes_is_refused_before_training(monkeypatch):
    monkeypatch.setattr(Model, "training_step", lambda *_: pytest.fail("trained"))
    with pytest.raises(UserValueError, match="monitor is val/miou; expected val/loss, val/mIoU or val/IoU/<class>"):
        epochs_of([0.5], monitor="val/miou")


def test_a_class_that_is_not_there_is_refused_once_all_images_were_seen():
    with pytest.raises(UserValueError, match="monitor is val/IoU/cat"):
        epochs_of([0.5], monitor="val/IoU/cat")
