"""The verbs fit, validate and test, step by step; each step is in a file beside this one.

LightningCLI parses and builds; beyond it there are the run folder, checkpoints by name, flags that win over a
checkpoint, and loggers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from rich.console import Console

from segdcn import class_paths
from segdcn.callbacks.cost import Cost
from segdcn.callbacks.record import Record
from segdcn.callbacks.results import Results
from segdcn.callbacks.submission import Submission
from segdcn.command_line import CommandLine
from segdcn.data import SegmentationData
from segdcn.errors import InvalidDataError, Stopped, UserError, UserValueError
from segdcn.fitting import check_checkpoint, check_state, check_trainer, check_unfinished
from segdcn.help import HelpFormatter
from segdcn.refusals import one_line_refusals
from segdcn.run import Run, check_name, read_checkpoint
from segdcn.task import SegmentationTask
from segdcn.training.callbacks import cost_of, progress_callback, results_of, saving_callbacks, training_callbacks
from segdcn.training.checkpoint import find_start, settings_to_take
from segdcn.training.closing import places_of, send_checkpoint, summarise
from segdcn.training.endings import retold
from segdcn.training.messages import say
from segdcn.training.options import VERBS, add_options, add_submission, description, explain_checkpoint
from segdcn.training.outputs import find_wandb_id, finish_wandb, logged_settings, make_loggers, open_run
from segdcn.training.preparation import add_to_trainer, balance_classes, tell_data
from segdcn.training.settings import check_settings, default_name


class SegmentationCLI(LightningCLI):
    """LightningCLI for `SegmentationTask` on any `SegmentationData`."""

    config: Any
    trainer: Trainer
    model: SegmentationTask
    datamodule: SegmentationData
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
            | {verb: {**settings, "description": description(verb)} for verb in VERBS},
            args=self.args,
        )

    @property
    def settings(self) -> Any:
        """The verb's part of the configuration."""
        return self.config[self.verb]

    def dump(self) -> str:
        """Dump the resolved configuration, defaults included, as YAML that --config takes."""
        return self._parser(self.verb).dump(self.settings, skip_unset=False)

    # Parsing

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, with the arguments of the Trainer's methods that are not for the command line."""
        return VERBS

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is ours."""
        add_options(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand != "fit":
            add_submission(parser)
        explain_checkpoint(parser, subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and fill in the run's name."""
        self.line.check_files()
        self._parser(self.verb).prog = f"segdcn {self.verb}"
        with one_line_refusals(self._parser(self.verb)):
            self.config = parser.parse_args(args)
        check_settings(self.settings, self.line.model_keys_in_files())
        for line in self.line.overruled():
            say(line)
        if self.settings.name is None:
            self.settings.name = default_name(self.settings)
        check_name(self.settings.name)
        if self.settings.trainer.default_root_dir is not None:
            raise UserValueError("trainer.default_root_dir has no effect: runs go to --runs_dir and --name")

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoint, and take the model's settings from it."""
        path, self.run = find_start(self.verb, self.settings)
        if path is None:
            return
        self.resumes = self.run is not None
        self.settings.ckpt_path = path
        self.checkpoint = read_checkpoint(Path(path))
        known = self.settings.model.as_dict()
        taken = settings_to_take(self.verb, self.checkpoint["hyper_parameters"], known, self.line, say)
        try:
            with one_line_refusals(self._parser(self.verb)):
                self.config = self.parser.parse_object({self.verb: {"model": taken}}, self.config)
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
        chosen = self._checked()
        if self.verb == "fit" and self.checkpoint is not None:
            check_state(self.checkpoint, self.settings.ckpt_path)
            check_unfinished(self.checkpoint, chosen["max_epochs"], chosen["max_steps"])
        if self.verb == "fit" and self.model.hparams["class_weights"] == "balanced":
            balance_classes(self.model, self.datamodule)
        own: list[Callback] = []
        if chosen["enable_progress_bar"] is not False:
            kwargs["enable_progress_bar"] = terminal = Console().is_terminal
            own.append(progress_callback(terminal))
        if self.verb == "fit":
            own += self._training_callbacks()
        if chosen["fast_dev_run"]:
            kwargs["logger"] = False
        else:
            run, kwargs["logger"], writing = self._open_run(chosen)
            kwargs["default_root_dir"] = str(run.path)
            own += writing
        self.record = Record({"wandb_id": self.wandb_id})
        add_to_trainer(chosen, [*own, self.record])
        return super().instantiate_trainer(**kwargs)

    def _checked(self) -> dict[str, Any]:
        """List the data, refuse what does not fit together, and give the trainer's settings."""
        labels_needed = self.settings.get("submission") is None
        tell_data(self.datamodule, self.verb, self.settings.model.eval_detail, labels_needed)
        self.datamodule.setup(self.verb)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint, self.model, say)
        chosen = self._get(self.config_init, "trainer")
        check_trainer(chosen)
        return chosen

    def _training_callbacks(self) -> list[Callback]:
        return training_callbacks(self.model.hparams["ema_decay"], self._get(self.config_init, "early_stopping"))

    def _open_run(self, chosen: dict[str, Any]) -> tuple[Run, list[Logger], list[Callback]]:
        """Make the run folder, the loggers, and the callbacks that write to it."""
        own: list[Callback] = []
        if self.verb != "fit" and self.settings.submission is not None:
            own.append(Submission(self.settings.submission))
        dumped = self.dump()
        self.run = run = open_run(self.run, self.settings.runs_dir, self.settings.name, self.args, dumped)
        going_on = self.checkpoint if self.resumes else None
        step = None if going_on is None else going_on["global_step"]
        self.wandb_id = find_wandb_id(going_on)
        logged = logged_settings(dumped, self.model)
        loggers, self.wandb_line = make_loggers(
            chosen["logger"], run, step, self.settings, self.verb, self.wandb_id, logged
        )
        if self.verb == "fit":
            parts = ("pictures", "effective_dilation", "offset_health")
            self.cost = cost_of({name: self._get(self.config_init, name).stopwatch for name in parts}, loggers)
            own.append(self.cost)
            if chosen["enable_checkpointing"] is not False:
                own += saving_callbacks(run)
        else:
            self.results = results_of(self.verb, run, self.settings, self.datamodule, chosen["precision"])
            own.append(self.results)
        return run, loggers, own

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
        except (Exception, SystemExit, Stopped) as error:
            going_on = self.verb == "fit" and self.checkpoint is not None
            start = self.settings.ckpt_path if going_on else None
            ending = retold(error, self.trainer, self.run, self.settings.name, start, self.record.begun)
            if ending is error:
                raise
            raise ending from error
        finally:
            finish_wandb(self.trainer.loggers, failed)

    def after_fit(self) -> None:
        """Send the checkpoint, and print the table of the last validation and where everything lies."""
        send_checkpoint(self._get(self.config_init, "wandb_checkpoint"), self.run, self.trainer.loggers)
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
        places = {}
        if self.run is not None:
            submission = self.settings.get("submission")
            places = places_of(self.run, self.trainer, self.results, self.cost, self.wandb_line, submission)
        summarise(split, title, self.trainer, self.model, places)
