"""Which weights are kept: the best and the last."""

from pathlib import Path
from typing import Any

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best of a run that goes on, also if its folder was moved or copied.

        ModelCheckpoint forgets the score where the folder has another path than the state,
        and would then replace best.ckpt by something worse. A folder without best.ckpt is a
        new run's, which starts afresh.
        """
        assert self.dirpath is not None
        best = Path(self.dirpath) / "best.ckpt"
        if best.is_file():
            here = {key: str(best) for key in ("best_model_path", "kth_best_model_path") if state_dict.get(key)}
            scores = {str(best): score for score in state_dict["best_k_models"].values()}
            state_dict = state_dict | here | {"dirpath": self.dirpath, "best_k_models": scores}
        super().load_state_dict(state_dict)


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
