"""fit, validate and test: configuration in, a run folder out.

LightningCLI parses and builds; this file adds what DESIGN.md promises beyond it: the run
folder, checkpoints by name, flags that win over a checkpoint, and loggers.
"""

import logging
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from segdcn import __version__
from segdcn.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from segdcn.callbacks.pictures import Pictures
from segdcn.callbacks.progress import Bar, Lines
from segdcn.callbacks.stopping import StopOnSignal
from segdcn.checkpoint_io import SafeCheckpointIO
from segdcn.data import SegmentationData
from segdcn.errors import Stopped, UserError, UserValueError
from segdcn.help import HelpFormatter
from segdcn.loggers import CSVLog, WandbMode, is_first_process, new_wandb_id, wandb_logger
from segdcn.refusals import one_line_refusals
from segdcn.run import CHECKPOINT_WORDS, Run, RunFailed, check_name, create_run, find_checkpoint, read_checkpoint
from segdcn.summary import iou_table, print_summary
from segdcn.task import SegmentationTask

# What the network is told by the data, with the plain type that a checkpoint keeps.
LINKS: dict[str, Callable[[Any], Any]] = {
    "num_classes": int,
    "class_names": list,
    "palette": lambda palette: [list(colour) for colour in palette],
    "mean": list,
    "std": list,
}

# The model's settings that also count when nothing is trained.
NETWORK_KEYS = {"architecture", "encoder", "output_stride", "deform_layers", "modulated", "offset_groups", "dilation"}

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
    with warnings.catch_warnings():
        if quiet:
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            for name in ("pytorch_lightning", "lightning_fabric"):
                logging.getLogger(name).setLevel(logging.WARNING)
        SegmentationCLI(args)


class SegmentationCLI(LightningCLI):
    """LightningCLI for `SegmentationTask` on any `SegmentationData`."""

    config: Any
    trainer: Trainer
    run: Run | None = None  # None in a fast_dev_run, which leaves nothing behind
    resumes = False  # the run goes on in the folder of an earlier one
    checkpoint: dict[str, Any] | None = None
    wandb_id: str | None = None
    wandb_line = "off"

    def __init__(self, args: Sequence[str]) -> None:
        self.args = list(args)
        self.verb = self.args[0]
        settings = {"exit_on_error": False, "allow_abbrev": False, "formatter_class": HelpFormatter}
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
        """Add what is ours: the run, W&B, pictures, and the links from data to model."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; null makes one from data and model."
        )
        parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="Folder of all runs.")
        parser.add_argument(
            "--wandb", type=WandbMode, default="auto", help="auto is online where an API key is set, else offline."
        )
        parser.add_argument("--wandb_project", type=str, default="segdcn", help="Project on Weights & Biases.")
        parser.add_lightning_class_args(Pictures, "pictures")
        for name, plain in LINKS.items():
            parser.link_arguments(f"data.{name}", f"model.{name}", compute_fn=plain, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and fill in the run's name."""
        self._parser(self.verb).prog = f"segdcn {self.verb}"
        with one_line_refusals(self._parser(self.verb)):
            self.config = parser.parse_args(args)
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
        the command line says otherwise, and where a file is overruled a line says so.
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
        for key in self._flags("model"):
            saved.pop(key, None)
        saved["encoder_weights"] = None  # replaced by the checkpoint's, so never fetched, not even by a flag
        from_files = self._model_keys_in_files()
        for key, value in saved.items():
            matters = self.verb == "fit" or key in NETWORK_KEYS
            if matters and key != "encoder_weights" and value != known[key] and key in from_files:
                _say(f"model.{key}: {value} from the checkpoint, not {known[key]}; --model.{key} overrules it")
        self.config = self.parser.parse_object({self.verb: {"model": saved}}, self.config)

    def _flags(self, group: str) -> set[str]:
        """Name the keys of a group that are flags on the command line, as in --model.lr 0.01."""
        prefix = f"--{group}."
        return {arg[len(prefix) :].partition("=")[0] for arg in self.args if arg.startswith(prefix)}

    def _model_keys_in_files(self) -> set[str]:
        """Name the model's keys that the files of --config and --model set."""
        configs = [_read_yaml(value) for option in ("--config", "-c") for value in self._values(option)]
        models = [config.get("model") or {} for config in configs] + [_read_yaml(v) for v in self._values("--model")]
        return {key for model in models for key in (_read_yaml(model) if isinstance(model, str) else model)}

    def _values(self, option: str) -> Iterator[str]:
        """Give what follows an option on the command line: `--x VALUE` or `--x=VALUE`."""
        for arg, following in zip(self.args, [*self.args[1:], ""], strict=True):
            name, equals, value = arg.partition("=")
            if name == option:
                yield value if equals else following

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
        self.datamodule.setup(self.verb)
        if self.checkpoint is not None:
            self._check_fit(self.checkpoint)
        trainer_settings = self._get(self.config_init, "trainer")
        _try_trainer(trainer_settings)
        if self.verb == "fit" and self.checkpoint is not None:
            _check_unfinished(self.checkpoint, trainer_settings["max_epochs"], trainer_settings["max_steps"])
        dry = bool(trainer_settings["fast_dev_run"])
        own: list[Callback] = []
        if trainer_settings["enable_progress_bar"] is not False:
            terminal = Console().is_terminal
            kwargs["enable_progress_bar"] = terminal
            own.append(Bar() if terminal else Lines())
        if not dry:
            self._make_run()
            assert self.run is not None
            kwargs["default_root_dir"] = str(self.run.path)
            kwargs["logger"] = self._make_loggers(trainer_settings["logger"])
            if self.verb == "fit" and trainer_settings["enable_checkpointing"] is not False:
                own += [BestCheckpoint(self.run.checkpoints), LastCheckpoint(self.run.checkpoints)]
                own.append(StopOnSignal(self.run.checkpoints / "last.ckpt"))
        else:
            kwargs["logger"] = False
        self.record = _Record({"wandb_id": self.wandb_id})
        plugins = trainer_settings["plugins"] or []
        trainer_settings["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), SafeCheckpointIO()]
        trainer_settings["use_distributed_sampler"] = False  # the data divides its samples itself, exactly
        given = trainer_settings["callbacks"] or []
        trainer_settings["callbacks"] = [*(given if isinstance(given, list) else [given]), *own, self.record]
        return super().instantiate_trainer(**kwargs)

    def _check_fit(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other classes or of another network."""
        saved = checkpoint["hyper_parameters"]
        if saved.get("class_names") != self.model.hparams["class_names"]:
            raise UserValueError(
                f"the checkpoint knows the classes {_short(saved.get('class_names'))}, "
                f"the data has {_short(self.model.hparams['class_names'])}; choose data with the same classes"
            )
        for key in ("mean", "std"):
            if saved.get(key) != self.model.hparams[key]:
                _say(f"data.{key} is {self.model.hparams[key]}, but the checkpoint was trained with {saved.get(key)}")
        ours = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        theirs = {key: tuple(value.shape) for key, value in checkpoint["state_dict"].items()}
        if different := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
            first = different[0]
            raise UserValueError(
                f"the checkpoint holds another network: {len(different)} weights differ, the first is {first} "
                f"({theirs.get(first, 'missing')} in the checkpoint, {ours.get(first, 'missing')} here); "
                "leave out the --model flags that change the network"
            )

    def _make_run(self) -> None:
        """Make the folder, or go on in the resumed one, and write the configuration to it."""
        label = "" if self.verb == "fit" else f"-{self.verb}"
        if not is_first_process():
            # Other processes write nothing, and ModelCheckpoint takes rank 0's folder for all.
            self.run = self.run or Run(self.settings.runs_dir / self.settings.name)
            return
        self.run = self.run or create_run(self.settings.runs_dir, self.settings.name, label)
        head = f"# segdcn {__version__}: segdcn {shlex.join(self.args)}\n"
        self.run.next_config().write_text(head + self._dump())

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
        config["model"] |= {name: self.model.hparams[name] for name in ("num_classes", "class_names")}
        config["segdcn"] = __version__
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
        except UserError:
            raise
        except Exception as error:
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
        self._summarise("val", f"validation after epoch {self.record.validated_epoch}")

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
        if f"{split}/mIoU" in self.trainer.callback_metrics:
            facts["mIoU"] = f"{self.trainer.callback_metrics[f'{split}/mIoU'].item():.4f}"
        if self.run is not None:
            facts |= self._places(self.run)
        table = iou_table(f"IoU, {title}", task.class_names, task.confusion) if "mIoU" in facts else None
        print_summary(table, facts)

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
        return places | {"W&B": self.wandb_line}


class _Record(Callback):
    """Put plain facts about the run into its checkpoints, under `segdcn`, and note its last validation.

    Among the facts is the state of torch's random numbers: with it a resumed run draws the
    dropout that it would have drawn. All processes start from one seed and draw alike, so
    the state of the first, which saves, is that of all.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.validated_epoch = 0  # counted from 1
        self._random: dict[str, torch.Tensor] = {}  # to be restored

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        random = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint["segdcn"] = self.facts | {"random": random}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._random = checkpoint.get("segdcn", {}).get("random", {})

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Only now, when loaders are set up and the batch is read: what draws next is the training step.
        random, self._random = self._random, {}
        if "cpu" in random:
            torch.set_rng_state(random["cpu"])
        if "cuda" in random and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated_epoch = trainer.current_epoch + 1


def _check_unfinished(checkpoint: dict[str, Any], max_epochs: int | None, max_steps: int) -> None:
    """Refuse to go on with a run that has nothing left to train."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    progress = loops.get("epoch_loop.batch_progress", {})
    validation = loops.get("epoch_loop.val_loop.batch_progress", {}).get("total", {})
    if validation.get("processed", 0) < validation.get("started", 0):
        return  # stopped in the last validation
    # `epoch` counts from 0 and is the one that the checkpoint was saved in, at its end or on the way.
    epochs = checkpoint["epoch"] + bool(progress.get("is_last_batch"))
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        raise UserValueError(f"the run has its {epochs} epochs; raise --trainer.max_epochs")
    if 0 <= max_steps <= checkpoint["global_step"]:
        raise UserValueError(f"the run has its {checkpoint['global_step']} steps; raise --trainer.max_steps")


def _read_yaml(value: str) -> dict[str, Any]:
    """Read a file of settings, or settings written where a file can stand."""
    content = yaml.safe_load(Path(value).read_text() if Path(value).is_file() else value)
    return content if isinstance(content, dict) else {}


def _try_trainer(settings: dict[str, Any]) -> None:
    """Build a trainer of these settings that writes nothing.

    Its constructor sees nothing but the user's settings, so what it refuses is the user's
    to mend; and it is asked before there is a run folder and a W&B run.
    """
    bare = {"logger": False, "callbacks": None, "enable_checkpointing": False, "enable_progress_bar": False}
    try:
        Trainer(**{**settings, **bare})
    except (MisconfigurationException, ValueError, ImportError, RuntimeError) as error:
        raise UserValueError(f"trainer: {error}") from error


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


def _short(names: list[str] | None) -> str:
    if names is None:
        return "(none)"
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


@rank_zero_only
def _say(line: str) -> None:
    print(f"segdcn: {line}", flush=True)
