"""metrics.csv in the run folder: all numbers that are logged."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segdcn.stopwatch import Stopwatch


class CSVLog(Logger):
    """Append every logged row to a CSV file as it comes.

    Unlike Lightning's CSVLogger it goes on with a file that is there (a resumed run), and
    each row is on disk when the call returns. A metric that is new gets a new column; the
    file is then written anew.

    Args:
        path: The file, made with the first row.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.stopwatch = Stopwatch()
        self._columns: list[str] | None = None

    @rank_zero_only
    def drop_from(self, step: int) -> None:
        """Drop the rows of `step` and later, which a run that goes on from there writes again."""
        if self.path.exists():
            self._columns = self._read_columns()
            self._write([row for row in self._read_rows() if not row["step"] or int(row["step"]) < step])

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Unused: the run folder tells runs apart."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write one row."""
        with self.stopwatch:
            self._append({"step": step, **metrics})

    def _append(self, row: dict[str, Any]) -> None:
        if self._columns is None:
            self._columns = self._read_columns()
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns = self._columns + new
            self._write(self._read_rows())
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    def _read_columns(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return next(csv.reader(file), [])

    def _read_rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            text = file.read()
        # A power failure can leave a row cut short.
        whole_rows = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(whole_rows)))

    def _write(self, rows: list[dict[str, str]]) -> None:
        """Write the file anew, beside the old one, and rename it over that."""
        assert self._columns is not None
        beside = self.path.with_suffix(".csv.new")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        beside.replace(self.path)
