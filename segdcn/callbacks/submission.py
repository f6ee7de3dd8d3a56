"""Predictions as files, for a benchmark's server or another tool."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segdcn.errors import UserValueError
from segdcn.whole_file import empty


class Submission(Callback):
    """Write every prediction of `validate` or `test`, at its original size, as the data set wants it.

    What the files are called and hold is up to the data set's `write_prediction`.

    Args:
        folder: Folder to write to; new or empty.

    Raises:
        UserValueError: The folder holds something, or cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            used = any(folder.iterdir())
        except OSError as error:
            raise UserValueError(f"submission is {folder}, but must be a folder: {error.strerror}") from error
        if used:
            raise UserValueError(f"submission is {folder}, which is not empty; choose a new folder")

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        self._write(data, data.val_split, outputs, batch)

    def on_test_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # likewise
        self._write(data, data.test_split, outputs, batch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse predictions of another size than the benchmark's.

        Raises:
            UserValueError: The data is read at another size.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning
        if data.resize is not None:
            raise UserValueError(
                f"a submission has the size of the pictures, but data.resize is {list(data.resize)}; "
                "set --data.resize null"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half of a submission."""
        empty(self.folder)

    def _write(self, data: Any, split: str, predictions: Tensor, batch: Mapping[str, Any]) -> None:
        pixels = predictions.byte().cpu().numpy()  # (B, H, W)
        for name, (height, width), prediction in zip(batch["name"], batch["size"], pixels, strict=True):
            data.write_prediction(self.folder, split, name, prediction[:height, :width])
            self.count += 1
