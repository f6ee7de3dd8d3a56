"""Where numbers go: metrics.csv in the run folder, always, and Weights & Biases."""

import csv
import io
import netrc
import os
import secrets
import shlex
import string
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segdcn.stopwatch import Stopwatch

WandbMode = Literal["auto", "online", "offline", "off"]


def is_first_process() -> bool:
    """Tell whether this process is the one that writes, also before there is a trainer to ask."""
    return getattr(rank_zero_only, "rank", 0) == 0


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


class WandbLog(WandbLogger):
    """Lightning's logger for W&B, with a stopwatch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.stopwatch = Stopwatch()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Send numbers or media in one record, with the step as `trainer/global_step`."""
        with self.stopwatch:
            super().log_metrics(metrics, step)

    def send(self, media: Mapping[str, Any], step: int) -> None:
        """Send pictures in one record; their time counts where they are made."""
        super().log_metrics(media, step)

    def send_checkpoint(self, path: Path, alias: str, facts: dict[str, Any]) -> None:
        """Send a checkpoint as an artifact `run-<id>`, with `alias`; offline it is uploaded with the rest.

        Args:
            path: The file. W&B uploads a copy of it, which lies in the run's folder until then.
            alias: `best` or `last`.
            facts: Kept with it: the step, the score.
        """
        import wandb

        # Else it lies below the home folder, where `wandb sync` on another machine would not find it.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(self.save_dir or ".").absolute() / "wandb"))
        artifact = wandb.Artifact(f"run-{self.version}", type="model", metadata=facts)
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact, aliases=[alias])


def wandb_log(loggers: Sequence[Logger]) -> WandbLog | None:
    """Find the log of W&B among loggers; None where there is none, and in all processes but the first."""
    found = [logger for logger in loggers if isinstance(logger, WandbLog)]
    return found[0] if found and is_first_process() else None


def new_wandb_id() -> str:
    """Make the id under which a run is known to W&B, also when it is resumed.

    Under W&B's agent the server has given one already.
    """
    return os.environ.get("WANDB_RUN_ID") or "".join(
        secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8)
    )


def wandb_logger(
    mode: WandbMode, project: str, name: str, folder: Path, run_id: str, job_type: str, config: dict[str, Any]
) -> tuple[WandbLog | None, str]:
    """Start a W&B run that never prompts and never hangs.

    Args:
        mode: `auto` is online where an API key is set and offline otherwise; the variable
            WANDB_MODE overrides `auto`. `online` without a key, or with no way to the
            server, becomes offline.
        project: W&B's project.
        name: The run's name there.
        folder: Run folder; the files go to its `wandb/`.
        run_id: From `new_wandb_id`, or the id of the run that goes on.
        job_type: fit, validate or test.
        config: The whole resolved configuration.

    Returns:
        The logger (None if off), and a line on where the run is to be seen.
    """
    if mode == "auto":
        mode = _wanted_mode()
    if mode == "off":
        return None, "off"

    if not is_first_process():
        # Lightning gives other processes a dummy in place of the run.
        return WandbLog(project=project, save_dir=str(folder), id=run_id), ""

    # Imported here: a second or more, which a run without W&B need not pay.
    import wandb

    _keep_quiet_without_home()
    reason = ""
    if mode == "online" and not has_wandb_key():
        mode, reason = "offline", " (no API key is set)"
    arguments: dict[str, Any] = {
        "project": project,
        "name": name,
        "dir": str(folder.absolute()),  # its service may have been started in another working directory
        "id": run_id,
        "resume": "allow",
        "job_type": job_type,
        "config": config,
        "settings": wandb.Settings(silent=True, init_timeout=30),
    }
    try:
        run = wandb.init(**arguments, mode="online" if mode == "online" else "offline")
    except wandb.errors.Error as error:
        if mode == "offline":
            raise
        mode, reason = "offline", f" ({str(error).splitlines()[0]})"
        wandb.teardown()  # its service still holds the id of the run that did not start
        run = wandb.init(**arguments, mode="offline")

    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    # Without this the summary is the last value, and a sweep would judge by that.
    run.define_metric("val/mIoU", step_metric="trainer/global_step", summary="max")
    logger = WandbLog(experiment=run, project=project, save_dir=str(folder), id=run_id)
    if mode == "online":
        return logger, str(run.url)
    # A pattern: a run that was stopped and resumed has a folder for each part, all of this id.
    parts = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*-{run_id}"
    return logger, f"offline{reason}; to upload: wandb sync {parts}"


def _keep_quiet_without_home() -> None:
    """Give W&B's service a place for its log where the home folder takes none; it would print it all."""
    if "WANDB_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wandb"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder at all
        os.environ["WANDB_CACHE_DIR"] = tempfile.mkdtemp(prefix="segdcn-wandb-")


def has_wandb_key() -> bool:
    """Tell whether W&B has credentials, looking where it looks, without asking for them."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb

    # wandb's default server has had two names; `wandb login` of an older version wrote the first.
    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    hosts = {urlsplit(server).netloc, "api.wandb.ai"}
    try:
        return not hosts.isdisjoint(netrc.netrc(os.environ.get("NETRC")).hosts)
    except (OSError, netrc.NetrcParseError):
        return False  # no such file


def _wanted_mode() -> WandbMode:
    match os.environ.get("WANDB_MODE", ""):
        case "disabled":
            return "off"
        case "offline" | "dryrun":
            return "offline"
        case _:
            return "online" if has_wandb_key() else "offline"
