import shutil

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from segdcn.callbacks.checkpoints import BestCheckpoint, LastCheckpoint

pytestmark = [
    # Lightning asks torch's pytree in a way torch deprecates; the demo's data needs no workers.
    pytest.mark.filterwarnings(r"ignore:.*`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Model(BoringModel):
    """Validates to a given series, one number an epoch."""

    def __init__(self, series):
        super().__init__()
        self.series = series

    def on_validation_epoch_end(self):  # noqa: D102
        self.log("val/mIoU", self.series[self.trainer.current_epoch])


def fit(folder, series, epochs, ckpt_path=None):
    best = BestCheckpoint(folder)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_train_batches=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        max_epochs=epochs,
        callbacks=[best, LastCheckpoint(folder)],
    )
    trainer.fit(Model(series), ckpt_path=ckpt_path, weights_only=True)
    return best


def epoch_of(path):
    return torch.load(path, weights_only=True)["epoch"]


def test_best_is_the_highest_and_last_is_the_last_also_when_it_is_not_among_the_best(tmp_path):
    best = fit(tmp_path, [0.1, 0.5, 0.2], epochs=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (epoch_of(tmp_path / "best.ckpt"), epoch_of(tmp_path / "last.ckpt")) == (1, 2)
    assert best.best_model_score == pytest.approx(0.5)


def test_a_resumed_run_remembers_its_best(tmp_path):
    fit(tmp_path, [0.1, 0.5, 0.2], epochs=3)
    fit(tmp_path, [0.1, 0.5, 0.2, 0.4], epochs=4, ckpt_path=tmp_path / "last.ckpt")
    assert (epoch_of(tmp_path / "best.ckpt"), epoch_of(tmp_path / "last.ckpt")) == (1, 3)
    fit(tmp_path, [0.1, 0.5, 0.2, 0.4, 0.6], epochs=5, ckpt_path=tmp_path / "last.ckpt")
    assert epoch_of(tmp_path / "best.ckpt") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")  # of LastCheckpoint, which has no score
def test_a_moved_run_remembers_its_best(tmp_path):
    fit(tmp_path / "old", [0.5, 0.2], epochs=2)
    shutil.move(tmp_path / "old", tmp_path / "new")
    best = fit(tmp_path / "new", [0.5, 0.2, 0.4], epochs=3, ckpt_path=tmp_path / "new" / "last.ckpt")
    assert epoch_of(tmp_path / "new" / "best.ckpt") == 0
    assert best.best_model_score == pytest.approx(0.5)
    fit(tmp_path / "new", [0.5, 0.2, 0.4, 0.6], epochs=4, ckpt_path=tmp_path / "new" / "last.ckpt")
    assert epoch_of(tmp_path / "new" / "best.ckpt") == 3
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_a_new_run_from_a_checkpoint_elsewhere_starts_afresh(tmp_path):
    fit(tmp_path / "old", [0.5], epochs=1)
    best = fit(tmp_path / "new", [0.5, 0.2], epochs=2, ckpt_path=tmp_path / "old" / "last.ckpt")
    assert best.best_model_score == pytest.approx(0.2)
    assert (epoch_of(tmp_path / "old" / "best.ckpt"), epoch_of(tmp_path / "new" / "best.ckpt")) == (0, 1)
