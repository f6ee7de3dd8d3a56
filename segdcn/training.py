"""fit, validate and test: configuration in, a run folder out.

LightningCLI parses and builds; this file adds what DESIGN.md promises beyond it: the run
folder, checkpoints by name, flags that win over a checkpoint, and loggers.
"""

import logging
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn import class_paths
from segdcn.callbacks.averaging import AveragedWeights
from segdcn.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from segdcn.callbacks.cost import Cost
from segdcn.callbacks.divergence import Divergence
from segdcn.callbacks.early_stopping import EarlyStop, StopEarly
from segdcn.callbacks.effective_dilation import EffectiveDilationLog
from segdcn.callbacks.next_epoch import NextEpoch
from segdcn.callbacks.offset_health import OffsetHealth
from segdcn.callbacks.pictures import Pictures
from segdcn.callbacks.plan import Plan
from segdcn.callbacks.progress import Bar, Lines
from segdcn.callbacks.record import Record
from segdcn.callbacks.results import Results
from segdcn.callbacks.stopping import StopOnSignal
from segdcn.callbacks.submission import Submission
from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.code_version import code_version, told
from segdcn.command_line import CommandLine
from segdcn.data import SegmentationData
from segdcn.data.class_weights import balanced_weights
from segdcn.data.describe import data_class
from segdcn.errors import Diverged, InvalidDataError, Stopped, UserError, UserValueError, system_refusal
from segdcn.fitting import (
    check_checkpoint,
    check_state,
    check_trainer,
    check_unfinished,
    is_lost_connection,
    is_of_settings,
)
from segdcn.help import HelpFormatter
from segdcn.loggers import CSVLog, WandbLog, WandbMode, is_first_process, new_wandb_id, wandb_log, wandb_logger
from segdcn.refusals import one_line_refusals, refuse_nulls
from segdcn.run import CHECKPOINT_WORDS, HASH, Run, RunFailed, check_name, create_run, find_checkpoint, read_checkpoint
from segdcn.summary import iou_table, print_summary, size_table
from segdcn.task import SegmentationTask
from segdcn.whole_file import write_whole

# What the network is told by the data, with the plain type that a checkpoint keeps.
LINKS: dict[str, Callable[[Any], Any]] = {
    "num_classes": int,
    "class_names": list,
    "palette": lambda palette: [list(colour) for colour in palette],
    "mean": list,
    "std": list,
}

# Callbacks with settings of their own.
CALLBACKS: dict[str, type[Callback]] = {
    "pictures": Pictures,
    "divergence": Divergence,
    "offset_health": OffsetHealth,
    "effective_dilation": EffectiveDilationLog,
}

# The model's settings that also count when nothing is trained.
NETWORK_KEYS = {
    *("architecture", "encoder", "output_stride", "deform_layers", "modulated", "offset_groups"),
    *("dilation", "gradual_dilation"),
}

EXAMPLE = """
Compose files with --config, --data and --model; what comes later on the line wins.

Example:
    segdcn {verb} --config configs/base.yaml --data configs/data/voc.yaml \\
        --model configs/model/deeplabv3plus_r50_dcn.yaml --data.root DIR {more}
"""

# Not for a user to act on; real warnings stay. Message starts, as warnings.filterwarnings takes them.
NOISE = [
    r".*does not have many workers which may be a bottleneck",  # data.num_workers is in every data YAML
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    r"Checkpoint directory .* exists and is not empty",  # so it is when a run goes on
    r"The dirpath has changed from",  # so it does when a new run starts from a checkpoint file
    r"Be aware that when using `ckpt_path`, callbacks used to create",  # validation saves no checkpoints
    r"\s*(By default only one JsonargparseDep|``instantiate_classes`` was deprecated)",  # LightningCLI's calls
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # torch about Lightning
]


def train(args: Sequence[str], quiet: bool = True) -> None:
    """Run `fit`, `validate` or `test`.

    Args:
        args: The verb and its arguments.
        quiet: Leave out Lightning's notices and the warnings nobody can act on.

    Raises:
        UserError: Something in the arguments, the data or the checkpoint does not fit.
        RunFailed: Anything else, after the run folder was made.
    """
    with _without_noise(quiet):
        SegmentationCLI(args)


class Rehearsal(NamedTuple):
    """What a `fit` would work with.

    Attributes:
        settings: The resolved configuration, defaults included, as `config.yaml` holds it.
        task: The network before its first step.
        data: The data set.
    """

    settings: dict[str, Any]
    task: SegmentationTask
    data: SegmentationData


def rehearse(args: Sequence[str]) -> Rehearsal:
    """Parse, check and build what `fit` would with these arguments, without training and without a run folder.

    Args:
        args: Those of `fit`.

    Raises:
        UserError: What `fit` would refuse before its first step.
    """
    with _without_noise(True):
        cli = _RehearsingCLI(["fit", *args])
    return Rehearsal(yaml.safe_load(cli._dump()), cast(SegmentationTask, cli.model), cli.datamodule)


@contextmanager
def _without_noise(quiet: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        if quiet:
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            for name in ("pytorch_lightning", "lightning_fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
        yield


class SegmentationCLI(LightningCLI):
    """LightningCLI for `SegmentationTask` on any `SegmentationData`."""

    config: Any
    trainer: Trainer
    run: Run | None = None  # None in a fast_dev_run, which leaves nothing behind
    resumes = False  # the run goes on in the folder of an earlier one
    checkpoint: dict[str, Any] | None = None
    results: Results | None = None  # of validate and test
    cost: Cost | None = None  # of fit
    wandb_id: str | None = None
    wandb_line = "off"

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)
        self.line = CommandLine(self.args)
        self.verb = self.args[0]
        settings = {"exit_on_error": False, "allow_abbrev": False, "formatter_class": HelpFormatter}
        class_paths.restrict_parser()
        # A checkpoint keeps what the task was given, so LightningCLI need not add its own record.
        super().__init__(
            SegmentationTask,
            SegmentationData,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={**settings, "prog": "segdcn"}
            | {verb: {**settings, "description": _description(verb)} for verb in self.subcommands()},
            args=self.args,
        )

    # Parsing

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, with the arguments of the Trainer's methods that are not for the command line."""
        mine = {"model", "datamodule", "weights_only", "verbose"}
        return {
            "fit": mine | {"train_dataloaders", "val_dataloaders"},
            "validate": mine | {"dataloaders"},
            "test": mine | {"dataloaders"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is ours: the run, W&B, pictures, offsets, and the links from data to model."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; null makes one from data and model."
        )
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Folder of all runs.")
        parser.add_argument(
            "--wandb", type=WandbMode, default="auto", help="auto is online where an API key is set, else offline."
        )
        parser.add_argument("--wandb_project", type=str, default="segdcn", help="Project on Weights & Biases.")
        parser.add_argument(
            "--wandb_checkpoint",
            type=Literal["best", "last"] | None,
            default=None,
            help="Checkpoint that W&B gets as an artifact when fit ends; null: none.",
        )
        parser.add_argument(
            "--early_stopping",
            type=EarlyStop | None,
            default=None,
            help="When to stop before the end, such as {monitor: val/mIoU, patience: 10}; null: never.",
        )
        for group, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, group)
        for name, plain in LINKS.items():
            parser.link_arguments(f"data.{name}", f"model.{name}", compute_fn=plain, apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            parser.add_argument(
                "--submission",
                type=Path | None,
                default=None,
                help="New folder for the predictions, as the data set's benchmark takes them; "
                "a split without any label file will do.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and fill in the run's name."""
        self.line.check_files()
        self._parser(self.verb).prog = f"segdcn {self.verb}"
        with one_line_refusals(self._parser(self.verb)):
            self.config = parser.parse_args(args)
        seed = self.settings.seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise UserValueError(f"seed_everything is {seed}; expected 0 to {2**32 - 1}")
        for name in ("runs_dir", "wandb", "wandb_project"):
            if self.settings[name] is None:
                raise UserValueError(f"{name} is null; expected a value")
        for group, kind in {"trainer": Trainer, "model": SegmentationTask, **CALLBACKS}.items():
            if not isinstance(self.settings[group], Namespace):
                raise UserValueError(f"{group} is {self.settings[group]!r}; expected settings by name, {{key: value}}")
            refuse_nulls(kind, self.settings[group].as_dict(), f"{group}.")
        kind = data_class(self.settings.data.class_path, "data")
        refuse_nulls(kind, (self.settings.data.get("init_args") or Namespace()).as_dict(), "data.")
        if linked := sorted(self.line.model_keys_in_files() & LINKS.keys()):
            raise UserValueError(f"model.{linked[0]} cannot be set: it is taken from the data")
        for line in self.line.overruled():
            _say(line)
        self.settings.name = self.settings.name or _default_name(self.settings)
        check_name(self.settings.name)
        if self.settings.trainer.default_root_dir is not None:
            raise UserValueError("trainer.default_root_dir has no effect: runs go to --runs_dir and --name")

    @property
    def settings(self) -> Any:
        """The verb's part of the configuration."""
        return self.config[self.verb]

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint, and take the model's settings from it.

        Lightning lets the checkpoint win over everything. Here flags win over the
        checkpoint and the checkpoint over files: a resumed run goes on as it was unless
        the command line says otherwise, and where a file is overruled a line says so. Only
        how to evaluate (`eval_...`) is taken from files first in `validate` and `test`.
        """
        path = self.settings.ckpt_path
        if path is None:
            if self.verb != "fit":
                raise UserValueError(
                    f"{self.verb} needs weights: give --ckpt_path FILE, or 'best' or 'last' with --name"
                )
            return
        if path in CHECKPOINT_WORDS:
            if self.verb == "fit" and path == "best":
                raise UserValueError("fit --ckpt_path best: training goes on from 'last'; name the file to go back")
            path = find_checkpoint(self.settings.runs_dir, self.settings.name, path)
            if self.verb == "fit":
                self.run, self.resumes = Run(path.parents[1]), True
        self.settings.ckpt_path = str(path)
        self.checkpoint = read_checkpoint(Path(path))

        known = self.settings.model.as_dict()
        saved = {key: value for key, value in self.checkpoint["hyper_parameters"].items() if key in known}
        from_files = self.line.model_keys_in_files()
        given = self.line.flags("model")
        if self.verb != "fit":
            # How to evaluate is no property of the weights: files win there too.
            given |= {key for key in from_files if key.startswith("eval_")}
        for key in given:
            saved.pop(key, None)
        saved["encoder_weights"] = None  # replaced by the checkpoint's, so never fetched, not even by a flag
        for key, value in saved.items():
            # Weights that an earlier start of this run computed.
            computed = key == "class_weights" and known[key] == "balanced"
            matters = (self.verb == "fit" and not computed) or key in NETWORK_KEYS
            if matters and key != "encoder_weights" and value != known[key] and key in from_files:
                _say(f"model.{key}: {value} from the checkpoint, not {known[key]}; --model.{key} overrules it")
        try:
            with one_line_refusals(self._parser(self.verb)):
                self.config = self.parser.parse_object({self.verb: {"model": saved}}, self.config)
        except UserError as error:
            raise InvalidDataError(f"{path} holds settings that cannot be: {error}") from error

    # Building

    def instantiate_classes(self) -> None:
        """Build data, network and trainer, with the errors of their constructors as they were raised."""
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except ValueError as error:
            # jsonargparse wraps whatever a data set's constructor raises in a page about types.
            if error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the run folder, then the trainer that writes to it.

        Only now, when data and network stand: a wrong setting leaves no empty folder. The
        trainer lists the data once more, which costs nothing the second time.
        """
        trainer_settings = self._checked()
        if self.verb == "fit" and self.checkpoint is not None:
            check_state(self.checkpoint, self.settings.ckpt_path)
            check_unfinished(self.checkpoint, trainer_settings["max_epochs"], trainer_settings["max_steps"])
        if self.verb == "fit" and self.model.hparams["class_weights"] == "balanced":
            self._balance_classes()
        dry = bool(trainer_settings["fast_dev_run"])
        own: list[Callback] = []
        if trainer_settings["enable_progress_bar"] is not False:
            terminal = Console().is_terminal
            kwargs["enable_progress_bar"] = terminal
            own.append(Bar() if terminal else Lines())
        if self.verb == "fit":
            own += self._training_callbacks()
        if not dry:
            if self.verb != "fit" and self.settings.submission is not None:
                own.append(Submission(self.settings.submission))
            self._make_run()
            assert self.run is not None
            kwargs["default_root_dir"] = str(self.run.path)
            kwargs["logger"] = loggers = self._make_loggers(trainer_settings["logger"])
            if self.verb == "fit":
                self.cost = self._make_cost(loggers)
                own.append(self.cost)
            if self.verb == "fit" and trainer_settings["enable_checkpointing"] is not False:
                own += [BestCheckpoint(self.run.checkpoints), LastCheckpoint(self.run.checkpoints)]
                own.append(StopOnSignal(self.run.checkpoints / "last.ckpt"))
            if self.verb != "fit":
                self.results = self._make_results(self.run, trainer_settings["precision"])
                own.append(self.results)
        else:
            kwargs["logger"] = False
        self.record = Record({"wandb_id": self.wandb_id})
        plugins = trainer_settings["plugins"] or []
        trainer_settings["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), SafeCheckpointIO()]
        trainer_settings["use_distributed_sampler"] = False  # the data divides its samples itself, exactly
        given = trainer_settings["callbacks"] or []
        trainer_settings["callbacks"] = [*(given if isinstance(given, list) else [given]), *own, self.record]
        return super().instantiate_trainer(**kwargs)

    def _checked(self) -> dict[str, Any]:
        """List the data, refuse what does not fit together, and give the trainer's settings."""
        self._tell_data()
        self.datamodule.setup(self.verb)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint, cast(SegmentationTask, self.model), _say)
        trainer_settings = self._get(self.config_init, "trainer")
        check_trainer(trainer_settings)
        return trainer_settings

    def _balance_classes(self) -> None:
        """Compute class weights from the training labels and give them to the task."""
        data = self.datamodule
        columns = (TextColumn("counting pixels"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True, disable=not is_first_process()) as bar:
            labels = bar.add_task("", total=len(data.train_dataset()))
            weights = balanced_weights(data, progress=lambda: bar.advance(labels))
        cast(SegmentationTask, self.model).set_class_weights(weights)
        listed = ", ".join(f"{name} {weight:g}" for name, weight in zip(data.class_names, weights, strict=True))
        _say(f"class weights: {listed}")

    def _training_callbacks(self) -> list[Callback]:
        """What only training needs; averaging first, so that all others see averaged weights when fit ends."""
        own: list[Callback] = []
        if self.model.hparams["ema_decay"] is not None:
            own.append(AveragedWeights(self.model.hparams["ema_decay"]))
        if (when := self._get(self.config_init, "early_stopping")) is not None:
            own.append(StopEarly(when))
        return [*own, NextEpoch(), Plan()]

    def _tell_data(self) -> None:
        """Spare the data instance maps that nobody looks at, and a submission the labels."""
        detail = self.settings.model.eval_detail
        self.datamodule.with_instances = detail == "always" or (detail == "outside_fit" and self.verb != "fit")
        self.datamodule.labels_needed = self.settings.get("submission") is None

    def _make_results(self, run: Run, precision: Any) -> Results:
        """Build what writes the results of validate and test."""
        data = self.datamodule
        described = {
            "class": self.settings.data.class_path,
            "root": str(data.root.absolute()),
            "split": data.val_split if self.verb == "validate" else data.test_split,
            "limit": data.eval_limit,
        }
        facts = {"verb": self.verb, "data": described, "precision": str(precision)}
        return Results(run.path, Path(self.settings.ckpt_path), facts)

    def _make_cost(self, loggers: Sequence[Logger]) -> Cost:
        """Build what counts the time of all that logs."""
        names = ("pictures", "effective_dilation", "offset_health")
        parts = {name: self._get(self.config_init, name).stopwatch for name in names}
        for logger in loggers:
            if isinstance(logger, CSVLog | WandbLog):
                parts["metrics_csv" if isinstance(logger, CSVLog) else "wandb"] = logger.stopwatch
        return Cost(parts)

    def _make_run(self) -> None:
        """Make the folder, or go on in the resumed one, and write the configuration to it."""
        label = "" if self.verb == "fit" else f"-{self.verb}"
        if not is_first_process():
            # Other processes write nothing, and ModelCheckpoint takes rank 0's folder for all.
            self.run = self.run or Run(self.settings.runs_dir / self.settings.name)
            return
        for part in self.run.checkpoints.glob("*.part") if self.run else ():
            part.unlink()  # a kill in the middle of writing leaves one, which nobody reads
        self.run = self.run or create_run(self.settings.runs_dir, self.settings.name, label)
        head = f"# {told(code_version())}: segdcn {shlex.join(self.args)}\n"
        write_whole(self.run.next_config(), head + self._dump())

    def _dump(self) -> str:
        """Dump the resolved configuration, defaults included, as YAML that --config takes."""
        return self._parser(self.verb).dump(self.settings, skip_unset=False)

    def _make_loggers(self, given: Any) -> list[Logger]:
        """CSV and W&B, and behind them what the user configured; none with `trainer.logger: false`."""
        assert self.run is not None
        resumed = self.verb == "fit" and self.resumes
        self.wandb_id = (self.checkpoint or {}).get("segdcn", {}).get("wandb_id") if resumed else None
        self.wandb_id = self.wandb_id or new_wandb_id()
        if given is False:
            return []
        table = CSVLog(self.run.metrics)
        if self.resumes and self.checkpoint is not None:
            table.drop_from(self.checkpoint["global_step"])
        loggers: list[Logger] = [table]
        config = yaml.safe_load(self._dump())
        config["model"] |= {name: self.model.hparams[name] for name in ("num_classes", "class_names", "class_weights")}
        config |= code_version()
        wandb, self.wandb_line = wandb_logger(
            self.settings.wandb,
            self.settings.wandb_project,
            name=f"{self.settings.name}/{self.run.path.name}",
            folder=self.run.path,
            run_id=self.wandb_id,
            job_type=self.verb,
            config=config,
        )
        if wandb is not None:
            loggers.append(wandb)
        if isinstance(given, Logger):
            loggers.append(given)
        elif isinstance(given, list):
            loggers += given
        return loggers

    # Running

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
        # The closing table says it better than Lightning's.
        return kwargs if subcommand == "fit" else kwargs | {"verbose": False}

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb, close W&B, and tell an interruption from a crash."""
        failed = True
        try:
            super()._run_subcommand(subcommand)
            failed = False
        except SystemExit as error:
            # Lightning turns Ctrl-C into a bare exit with code 1.
            if self.trainer.state.status == TrainerStatus.INTERRUPTED:
                raise KeyboardInterrupt(self._how_to_go_on()) from error
            raise
        except Stopped as stopped:
            stopped.advice = self._how_to_go_on()
            raise
        except Diverged as error:
            raise Diverged(f"{error}{self._how_to_go_on()}") from error
        except UserError:
            raise
        except Exception as error:
            if (refused := system_refusal(error)) is not None:
                raise UserError(f"{refused}{self._how_to_go_on()}") from error
            if self.trainer.world_size > 1 and is_lost_connection(error):
                raise UserError(
                    f"process {self.trainer.global_rank} of {self.trainer.world_size} lost the other processes: one of "
                    f"them failed, and says why, or the network did{self._how_to_go_on()}"
                ) from error
            if self.verb == "fit" and self.checkpoint is not None and not self.record.begun:
                raise InvalidDataError(
                    f"training cannot go on from {self.settings.ckpt_path}, which is damaged or of another version: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if not self.record.begun and is_of_settings(error):
                raise UserValueError(f"trainer: {error}") from error
            if self.run is None:
                raise
            raise RunFailed(self.run.path) from error
        finally:
            self._finish_wandb(failed)

    def _how_to_go_on(self) -> str:
        if self.run is None or not (self.run.checkpoints / "last.ckpt").is_file():
            return "; nothing was saved"
        return f"; go on from where it was saved last with --ckpt_path last --name {self.settings.name}"

    def _finish_wandb(self, failed: bool) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger) and is_first_process():
                logger.experiment.finish(exit_code=int(failed))

    def after_fit(self) -> None:
        """Print the table of the last validation, and where everything lies."""
        self._send_checkpoint()
        self._summarise("val", f"validation after epoch {self.record.validated_epoch}")

    def _send_checkpoint(self) -> None:
        """Give W&B the checkpoint that was asked for."""
        word, log = self._get(self.config_init, "wandb_checkpoint"), wandb_log(self.trainer.loggers)
        if word is None or log is None or self.run is None:
            return
        path = self.run.checkpoints / f"{word}.ckpt"
        if path.is_file():
            saved = read_checkpoint(path)
            try:
                log.send_checkpoint(path, word, {"step": saved["global_step"], "weights_sha256": saved.get(HASH)})
            except OSError as error:  # training is done and saved, whatever becomes of the copy
                _say(f"warning: W&B does not get {path}: its copy could not be written ({error.strerror})")

    def after_validate(self) -> None:
        """Print the table and where everything lies."""
        self._summarise("val", "validation")

    def after_test(self) -> None:
        """Print the table and where everything lies."""
        self._summarise("test", "test")

    def _summarise(self, split: str, title: str) -> None:
        if not self.trainer.is_global_zero:
            return
        task = cast(SegmentationTask, self.model)
        facts = {}
        measured = f"{split}/mIoU" in self.trainer.callback_metrics
        if measured and not task.evaluation.confusion.pixels().any():
            _say("no pixel has a label: nothing was measured")
        elif measured:
            facts["mIoU"] = f"{self.trainer.callback_metrics[f'{split}/mIoU'].item():.4f}"
        if self.run is not None:
            facts |= self._places(self.run)
            if self.verb != "fit" and self.settings.submission is not None:
                facts["submission"] = str(self.settings.submission)
        tables = [iou_table(f"IoU, {title}", task.class_names, task.evaluation)] if "mIoU" in facts else []
        if tables and task.evaluation.in_detail:
            tables.append(size_table(task.evaluation))
        print_summary(Group(*tables) if tables else None, facts)

    def _places(self, run: Run) -> dict[str, str]:
        """Say where everything lies, leaving out what this run did not write."""
        places = {"run folder": str(run.path)}
        best, last = run.checkpoints / "best.ckpt", run.checkpoints / "last.ckpt"
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, BestCheckpoint) and best.is_file():
                score = callback.best_model_score
                places["best"] = str(best) if score is None else f"{best}  (val/mIoU {score:.4f})"
        for name, path in {"last": last, "metrics": run.metrics, "pictures": run.pictures}.items():
            if path.exists():
                places[name] = str(path)
        if self.results is not None and self.results.written:
            places["results"] = str(self.results.written[-1])
        if self.cost is not None:
            places["logging"] = self.cost.told()
        return places | {"W&B": self.wandb_line}


class _RehearsingCLI(SegmentationCLI):
    """Stops short of everything that is written or run."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Check what a trainer would get, and build one that is not used."""
        self._checked()
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _default_name(settings: Any) -> str:
    """Name a run by what was chosen: voc-deeplabv3plus-resnet50-dcn3, or -plain."""
    model = settings.model
    data = settings.data.class_path.rpartition(".")[2].lower()
    kind = f"dcn{model.deform_layers}" if model.deform_layers else "plain"
    return f"{data}-{model.architecture}-{model.encoder}-{kind}"


def _description(verb: str) -> str:
    what = {
        "fit": "Train a network, or go on training it.",
        "validate": "Measure a checkpoint on the validation set.",
        "test": "Measure a checkpoint on the test set.",
    }
    more = {"fit": "--model.lr 0.01", "validate": "--ckpt_path best", "test": "--ckpt_path FILE"}
    return what[verb] + "\n" + EXAMPLE.format(verb=verb, more=more[verb])


@rank_zero_only
def _say(line: str) -> None:
    print(f"segdcn: {line}", flush=True)
