import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from segdcn.callbacks.cost import Cost
from segdcn.stopwatch import Stopwatch


def test_a_stopwatch_adds_up_its_blocks(monkeypatch):
    ticks = iter([10.0, 12.0, 20.0, 20.5])
    monkeypatch.setattr("segdcn.stopwatch.time.perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch:
        pass
    with pytest.raises(KeyError), watch:
        raise KeyError
    assert (watch.seconds, watch.last) == (2.5, 0.5)


def test_the_share_of_fit_is_told_with_the_dearest_part_first():
    pictures, wandb = Stopwatch(), Stopwatch()
    pictures.seconds, wandb.seconds = 1.0, 3.0
    cost = Cost({"all_pictures": pictures, "wandb": wandb})
    cost.seconds = 200.0
    assert cost.told() == "4.0 s, 2.0% of 200 s (wandb 3.0, all pictures 1.0)"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*LeafSpec:Warning", "ignore::FutureWarning")
def test_validations_log_the_seconds_so_far_and_the_sanity_check_none(tmp_path):
    watch = Stopwatch()
    cost = Cost({"pictures": watch})

    class Model(BoringModel):
        def on_train_start(self):
            assert not any(key.startswith("time/") for key in self.trainer.callback_metrics)
            with watch:
                pass

    trainer = Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        callbacks=[cost],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model())
    assert trainer.callback_metrics["time/logging/pictures"].item() == pytest.approx(watch.seconds)
    assert 0 < trainer.callback_metrics["time/logging_share"] < 1
    assert cost.seconds > watch.seconds
