"""The training commands of every package: LightningCLI with shipped configs, run folders and short errors.

The private names of Lightning and jsonargparse that this needs are used here alone; ``tests/shared/test_cli.py`` fails
loudly if one of them moves.
"""

import logging
import shlex
import signal
import traceback
import warnings
from argparse import SUPPRESS
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from yaml import safe_load

from shared.checkpoints import AtomicCheckpointIO, first_line, is_whole_checkpoint, newest_whole_checkpoint
from shared.commands import config_names, config_path, named_configs, option_value, with_config_paths
from shared.errors import UsageError
from shared.runs import (
    RunLogger,
    RunRecord,
    folder_of_checkpoint,
    folder_of_name,
    new_run_folder,
    package_of_run,
)
from shared.trainer_options import check_trainer_options, lightnings_refusal, refused_by_lightning
from shared.wrong_options import explain

NOT_SAVED = ("config", "ckpt_path", "weights_only", "verbose", "return_predictions")

QUIET = (
    ".*LeafSpec.*",  # lightning 2.6 on new torch
    ".*dirpath has changed.*",  # a run folder may be moved
    ".*exists and is not empty.*",  # a resumed run goes on in its folder
    ".*does not have many workers.*",  # data in memory need none
    ".*number of training batches.*",  # a round is one step
    ".*across ranks is zero.*",  # unlabelled data need no validation part
)


class Cli(LightningCLI):
    """``COMMAND fit | validate | test | predict`` of one package.

    * Options come from, each over the one before: the shipped config of the verb, the config saved in the run that
      ``--ckpt_path`` belongs to, ``--config`` (a file or the bare name of a shipped config), flags.
    * ``--ckpt_path last`` is the newest whole checkpoint of this run name; ``fit`` then goes on in that run folder.
    * Every run writes ``ROOT/PACKAGE/NAME/version_N`` (``--run.root``, ``--run.name``).

    Args:
        package: Name of the package, which is also its command.
        model_class: The LightningModule.
        datamodule_class: The LightningDataModule.
        args: The words after the command, the verb first.
        subclass_mode_model: Whether ``--model`` takes a class.
        callbacks: Callbacks of every run (progress bar, pictures).
        trainer_class: The Trainer, where a package adds verbs to it.
        parse_only: Parse the options of ``fit`` and stop: nothing is built, written or run, and :meth:`part`
            builds what a verb wants to look at.

    Attributes:
        trains: The verb that trains, where a package calls ``fit`` by another name.
    """

    trains: str = "fit"

    def __init__(
        self,
        package: str,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: Sequence[str],
        *,
        subclass_mode_model: bool = False,
        callbacks: Sequence[Callback] = (),
        trainer_class: type[Trainer] = Trainer,
        parse_only: bool = False,
    ) -> None:
        self.package = package
        self.parse_only = parse_only
        self.model_type = model_class
        self.datamodule_type = datamodule_class
        self.words = list(args)
        self.own_callbacks = list(callbacks)
        self.folder: Path | None = None
        verb = self.words[0]
        # lightly imports the same library under its other name, which then speaks for both.
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)  # the run says itself what it does and where
        for told_for_nothing in QUIET:
            warnings.filterwarnings("ignore", told_for_nothing)
        arguments, self.resumed = self._prepare(verb, with_config_paths(package, self.words))
        shipped = {
            name: {
                "default_config_files": [str(self._default_config(name))],
                "exit_on_error": False,
                "allow_abbrev": False,
            }
            for name in self.subcommands()
        }
        try:
            super().__init__(
                model_class,
                datamodule_class,
                args=arguments,
                run=True,
                trainer_class=trainer_class,
                trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 1, "enable_model_summary": False},
                parser_kwargs={"exit_on_error": False, "allow_abbrev": False, **shipped},
                save_config_callback=None,
                auto_configure_optimizers=False,
                subclass_mode_model=subclass_mode_model,
                load_from_checkpoint_support=False,
            )
        except ArgumentError as error:
            raise UsageError(explain(error, self._subcommand_parsers[verb])) from error
        except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
            if told := usage_error_behind(error):
                raise told from None
            if not refused_by_lightning(error):
                raise
            metrics = self.trainer.callback_metrics if hasattr(self, "trainer") else ()
            raise UsageError(lightnings_refusal(error, self.config[verb], metrics)) from error
        except SystemExit as stop:
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            # Lightning ignores it from here on, and exits with 1.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise stop.__context__ from None
        finally:
            self._leave_no_empty_run()

    def _leave_no_empty_run(self) -> None:
        """Remove the folder of a run that wrong options ended before it wrote anything else than these."""
        if self.folder is not None and [path.name for path in self.folder.glob("*")] == ["config.yaml"]:
            (self.folder / "config.yaml").unlink()
            self.folder.rmdir()

    # ------------------------------------------------------------------ before parsing

    def _default_config(self, verb: str) -> Path:
        """Shipped config of a verb; verbs without one share that of the training verb."""
        return config_path(self.package, verb if verb in config_names(self.package) else self.trains)

    def _run_name(self, words: Sequence[str]) -> str:
        """``--run.name``, else the name of the last ``--config``, else the training verb: ``test`` finds its run."""
        given = option_value(words, "--run.name")
        config = option_value(words, "--config", "-c")
        if given is not None:
            return given
        return Path(config).stem if config and Path(config).name != "config.yaml" else self.trains

    def _name_in(self, config: Namespace) -> str:
        """The name of the run once options are parsed: a config may hold it too."""
        return self._run_name(self.words) if config.run.name is None else config.run.name

    def _prepare(self, verb: str, words: list[str]) -> tuple[list[str], Path | None]:
        """Resolve ``--ckpt_path`` and put the config of its run in front.

        Returns:
            The words to parse and the run folder that a resumed ``fit`` goes on in.
        """
        wants_help = any(word in ("-h", "--help") or word.endswith(".help") for word in words)
        given = option_value(words, "--ckpt_path")
        if wants_help or verb not in self.subcommands():
            return words, None
        if given is None and verb != self.trains:
            given = "last"
            words = [*words, "--ckpt_path", given]
        if given is None:
            return words, None
        root, name = option_value(words, "--run.root"), self._run_name(words)
        if given == "last":
            versions = folder_of_name("runs" if root is None else root, self.package, name)
            checkpoint = newest_whole_checkpoint(versions)
            if checkpoint is None:
                raise UsageError(f"--ckpt_path last needs a run with a whole checkpoint, found none in {versions}")
        else:
            checkpoint = Path(given)
            if not checkpoint.is_file():
                raise UsageError(f"--ckpt_path must be an existing file or 'last', got {given}")
            if not is_whole_checkpoint(checkpoint):
                raise UsageError(f"--ckpt_path is damaged or no checkpoint: {checkpoint}")
        words = replace_option(words, "--ckpt_path", str(checkpoint))
        folder = folder_of_checkpoint(checkpoint)
        if folder is not None:
            writer = package_of_run(folder)
            if writer not in (self.package, None):
                raise UsageError(f"--ckpt_path must be of a run of {self.package}, got {checkpoint}, a run of {writer}")
            words = [words[0], "--config", str(folder / "config.yaml"), *words[1:]]
        return words, folder if verb == self.trains else None

    # ------------------------------------------------------------------ LightningCLI hooks

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of the run folder and of checkpoints."""
        parser.add_argument(
            "--run.name", type=str | None, default=None, help="Name of the run (default: of its config)."
        )
        parser.add_argument("--run.root", type=str, default="runs", help="Folder of all runs.")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "round={epoch:04d}",
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.save_top_k": 2,
                "checkpoint.monitor": "epoch",
                "checkpoint.mode": "max",
                "checkpoint.every_n_epochs": 1,
                "checkpoint.save_on_train_epoch_end": True,
            }
        )
        for source, target in self.links():
            parser.link_arguments(
                source, target, apply_on="instantiate" if source.startswith(("data.", "model.")) else "parse"
            )

    def add_verb_arguments(self, verb: str, parser: LightningArgumentParser) -> None:
        """Options of one verb alone; by default no table of Lightning's after a test, for packages print their own."""
        if verb == "test":
            parser.set_defaults({"verbose": False})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """The parser of a verb, with the options that are its own."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.add_instantiator(built, object)
        self.add_verb_arguments(subcommand, parser)
        return parser

    def links(self) -> list[tuple[str, str]]:
        """Pairs (source, target) of options that are one: ``data.…`` and ``model.…`` are read off what was built."""
        return []

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about programs that are called from Python.

        ``--model.help``, and that of any other group of options, shows the group alone.
        """
        shown = self._subcommand_parsers.get(args[0])
        for word in args:
            group = word.removeprefix("--").removesuffix(".help")
            groups = {} if shown is None else shown.groups or {}
            if (
                shown is None
                or group not in groups
                or word != f"--{group}.help"
                or word in shown._option_string_actions
            ):
                continue
            shown._action_groups = [options for name, options in groups.items() if f"{name}.".startswith(f"{group}.")]
            shown.usage = SUPPRESS
            shown.print_help()
            shown.exit()
        if shown is not None:
            for config in named_configs(self.package, args)[0]:
                check_groups(
                    safe_load(config.read_text(encoding="utf-8")) or {}, ("run", *(shown.groups or ())), config
                )
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the run's own config was read before parsing, so that flags win over the checkpoint."""

    def _set_seed(self) -> None:
        """Refuse what makes no run, the seed too, then seed everything."""
        check_trainer_options(self.config[self.subcommand], self.subcommand == self.trains)
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Choose the run folder."""
        if self.parse_only:
            return
        config = self.config[self.subcommand]
        if config.trainer.fast_dev_run or getattr(rank_zero_only, "rank", 0) != 0:
            return
        if self.subcommand == self.trains:
            try:
                self.folder = self.resumed or new_run_folder(config.run.root, self.package, self._name_in(config))
            except OSError as error:
                raise UsageError(
                    f"--run.root must be a folder that can be written, got {config.run.root} ({error.strerror})"
                ) from error
            self.save_config()
        elif config.ckpt_path:
            self.folder = folder_of_checkpoint(Path(config.ckpt_path))

    def save_config(self) -> None:
        """Write ``config.yaml`` of the run as the options are now."""
        if self.folder is None:
            return
        chosen = self.config[self.subcommand]
        saved = Namespace({key: value for key, value in chosen.items() if key not in NOT_SAVED})
        text = self._parser(self.subcommand).dump(saved, skip_validation=True)
        (self.folder / "config.yaml").write_text(f"# {shlex.join([self.package, *self.words])}\n{text}")

    def instantiate_classes(self) -> None:
        """Build data, model and trainer."""
        if not self.parse_only:
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb."""
        if not self.parse_only:
            super()._run_subcommand(subcommand)

    def part(self, name: Literal["model", "data"]) -> dict[str, Any]:
        """The arguments of the model or the data module, built from the options one by one, the whole not yet.

        Those that a link reads off the built data are missing.
        """
        owner = self.model_type if name == "model" else self.datamodule_type
        parser = LightningArgumentParser()
        parser.add_class_arguments(owner, name, fail_untyped=False, instantiate=False, sub_configs=True)
        parser.add_instantiator(built, object)
        chosen = Namespace({name: self.config[self.subcommand][name]})
        try:
            return dict(vars(parser.instantiate_classes(chosen)[name]))
        except ValueError as error:
            if told := usage_error_behind(error):
                raise told from None
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with this project's logger, record, checkpoint writer."""
        config = self.config_init[self.subcommand]
        name = self._name_in(config)
        if not config.trainer.logger and config.trainer.logger is not False:
            fit = self.subcommand == self.trains
            kwargs["logger"] = RunLogger(self.folder if fit else None, self.package, name)
        plugins = config.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        words = self.words
        if self.resumed is not None:  # its flags alone would not make the run again
            words = [self.trains, "--config", str(self.resumed / "config.yaml")]
        record = RunRecord(self.folder, self.package, shlex.join([self.package, *words]), config.get("seed_everything"))
        callbacks = config.trainer.callbacks or []
        own = [
            c
            for c in self.own_callbacks
            if config.trainer.enable_progress_bar is not False or not isinstance(c, ProgressBar)
        ]
        # The record first: what draws the report reads it.
        kwargs["callbacks"] = [record, *(callbacks if isinstance(callbacks, list) else [callbacks]), *own]
        if self.folder is not None:
            config.checkpoint.dirpath = str(self.folder.resolve() / "checkpoints")
        return super().instantiate_trainer(**kwargs)


def usage_error_behind(error: BaseException) -> UsageError | None:
    """The error itself or the first behind it that tells about wrong input: jsonargparse puts its own in front."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UsageError):
        cause = cause.__cause__
    return cause


def built(kind: type, *arguments: Any, **options: Any) -> Any:
    """An object of a class that options name.

    Raises:
        UsageError: Its library refuses the options. An error from deeper inside is another matter.
    """
    try:
        return kind(*arguments, **options)
    except (TypeError, ValueError) as error:
        *_, innermost = traceback.walk_tb(error.__traceback__)
        place = innermost[0].f_globals["__name__"]
        if isinstance(error, UsageError) or place.split(".")[0] != kind.__module__.split(".")[0]:
            raise
        raise UsageError(f"{kind.__name__} refuses its options: {first_line(error)}") from error


def check_groups(options: Mapping[str, Any], groups: Iterable[str], config: Path) -> None:
    """Refuse another value in the place of a group of options, which the parser would take.

    Raises:
        UsageError: A group is null (in YAML also one without a line below it), a number, a text or a list.
    """
    for group in groups:
        value: Any = options
        for name in group.split("."):
            value = value.get(name, {}) if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            told = "nothing" if value is None else value
            raise UsageError(f"{group} must hold options or be left out, got {told} in {config}")


def replace_option(words: Sequence[str], flag: str, value: str) -> list[str]:
    """``words`` with every ``flag`` given as ``value``.

    Example:
        >>> replace_option(["fit", "--ckpt_path", "last"], "--ckpt_path", "a.ckpt")
        ['fit', '--ckpt_path=a.ckpt']
    """
    result: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == flag:
            result.append(f"{flag}={value}")
            skip = True
        elif word.startswith(f"{flag}="):
            result.append(f"{flag}={value}")
        else:
            result.append(word)
    return result
