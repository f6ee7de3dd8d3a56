"""Which weights are kept: the best and the last."""

from pathlib import Path

from pytorch_lightning.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Keep `best.ckpt`: the weights with the highest val/mIoU so far."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/mIoU",
            mode="max",
            save_top_k=1,
            enable_version_counter=False,  # a resumed run replaces best.ckpt instead of writing best-v1.ckpt
        )


class LastCheckpoint(ModelCheckpoint):
    """Keep `last.ckpt`: all that is needed to go on from the end of the last epoch.

    A callback of its own, since ModelCheckpoint's `save_last` writes only in epochs that
    were among the best. Comes after BestCheckpoint, whose state it saves.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            monitor=None,
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
