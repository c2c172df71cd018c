"""The training commands of every package: LightningCLI with shipped configs, run folders and short errors.

The private names of Lightning and jsonargparse that this needs are used here alone; ``tests/shared/test_cli.py`` fails
loudly if one of them moves.
"""

import inspect
import logging
import re
import shlex
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from pydoc import locate
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from shared.checkpoints import AtomicCheckpointIO, first_line, is_whole_checkpoint
from shared.commands import config_names, config_path, nearest, option_value, with_config_paths
from shared.errors import UsageError
from shared.runs import RunLogger, RunRecord, folder_of_checkpoint, last_checkpoint, new_run_folder

NOT_SAVED = ("config", "ckpt_path", "weights_only", "verbose", "return_predictions")
MOST_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""


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
            name: {"default_config_files": [str(self._default_config(name))], "exit_on_error": False}
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
                parser_kwargs={"exit_on_error": False, **shipped},
                save_config_callback=None,
                auto_configure_optimizers=False,
                subclass_mode_model=subclass_mode_model,
                load_from_checkpoint_support=False,
            )
        except ArgumentError as error:
            raise UsageError(explain(error, self._options(verb), self._classes())) from error
        except (MisconfigurationException, ModuleNotFoundError) as error:  # an accelerator that is not here, say
            raise UsageError(str(error)) from error

    def _options(self, verb: str) -> list[str]:
        """Names of all options of a verb."""
        return [action.dest for action in self._subcommand_parsers[verb]._actions]

    def _classes(self) -> dict[str, tuple[type, ...]]:
        """Options of model and data whose value is a class."""
        return class_options("model", self.model_type) | class_options("data", self.datamodule_type)

    # ------------------------------------------------------------------ before parsing

    def _default_config(self, verb: str) -> Path:
        """Shipped config of a verb; verbs without one share that of the training verb."""
        return config_path(self.package, verb if verb in config_names(self.package) else self.trains)

    def _run_name(self, words: Sequence[str]) -> str:
        """``--run.name``, else the name of the last ``--config``, else the training verb: ``test`` finds its run."""
        given = option_value(words, "--run.name")
        config = option_value(words, "--config", "-c")
        if given:
            return given
        return Path(config).stem if config and Path(config).name != "config.yaml" else self.trains

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
        root, name = Path(option_value(words, "--run.root") or "runs"), self._run_name(words)
        if given == "last":
            checkpoint = last_checkpoint(root, self.package, name)
            if checkpoint is None:
                raise UsageError(
                    f"--ckpt_path last needs a run with a whole checkpoint, found none in {root / self.package / name}"
                )
        else:
            checkpoint = Path(given)
            if not checkpoint.is_file():
                raise UsageError(f"--ckpt_path must be an existing file or 'last', got {given}")
            if not is_whole_checkpoint(checkpoint):
                raise UsageError(f"--ckpt_path is damaged or no checkpoint: {checkpoint}")
        words = replace_option(words, "--ckpt_path", str(checkpoint))
        folder = folder_of_checkpoint(checkpoint)
        if folder is not None:
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
        """Options of one verb alone; none by default."""

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """The parser of a verb, with the options that are its own."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        self.add_verb_arguments(subcommand, parser)
        return parser

    def links(self) -> list[tuple[str, str]]:
        """Pairs (source, target) of options that are one: ``data.…`` and ``model.…`` are read off what was built."""
        return []

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about programs that are called from Python."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the run's own config was read before parsing, so that flags win over the checkpoint."""

    def _set_seed(self) -> None:
        """Seed everything, once the seed is known to be one."""
        seed = self.config[self.subcommand].get("seed_everything")
        if not isinstance(seed, bool) and isinstance(seed, int) and not 0 <= seed <= MOST_SEED:
            raise UsageError(f"--seed_everything must lie in 0 .. {MOST_SEED}, got {seed}")
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Choose the run folder."""
        if self.parse_only:
            return
        config = self.config[self.subcommand]
        if not isinstance(config.trainer, Namespace):
            raise UsageError(f"trainer must hold options, such as trainer.max_epochs, got {config.trainer!r}")
        if config.trainer.fast_dev_run or getattr(rank_zero_only, "rank", 0) != 0:
            return
        name = config.run.name or self._run_name(self.words)
        if self.subcommand == self.trains:
            try:
                self.folder = self.resumed or new_run_folder(Path(config.run.root), self.package, name)
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
            with unwrapped():
                super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb.

        Raises:
            KeyboardInterrupt: Lightning has ended after one, as if all were well, and turned further ones off.
        """
        if self.parse_only:
            return
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:
            if not self.trainer.interrupted:
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None

    def part(self, name: Literal["model", "data"]) -> dict[str, Any]:
        """The arguments of the model or the data module, built from the options one by one, the whole not yet.

        Those that a link reads off the built data are missing.
        """
        owner = self.model_type if name == "model" else self.datamodule_type
        parser = LightningArgumentParser()
        parser.add_class_arguments(owner, name, fail_untyped=False, instantiate=False, sub_configs=True)
        chosen = Namespace({name: self.config[self.subcommand][name]})
        with unwrapped():
            return dict(vars(parser.instantiate_classes(chosen)[name]))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with this project's logger, record, checkpoint writer."""
        config = self.config_init[self.subcommand]
        name = config.run.name or self._run_name(self.words)
        if not config.trainer.logger and config.trainer.logger is not False:
            fit = self.subcommand == self.trains
            kwargs["logger"] = RunLogger(self.folder if fit else None, self.package, name)
        plugins = config.trainer.plugins or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        record = RunRecord(
            self.folder, self.package, shlex.join([self.package, *self.words]), config.get("seed_everything")
        )
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
        if str(config.trainer.precision) in ("64", "64-true"):
            raise UsageError(
                f"--trainer.precision must be one for float32 images, such as 32-true or bf16-mixed, "
                f"got {config.trainer.precision}"
            )
        every = config.trainer.check_val_every_n_epoch
        if every is not None and every < 1:
            raise UsageError(f"--trainer.check_val_every_n_epoch must be at least 1 or null, got {every}")
        try:
            return super().instantiate_trainer(**kwargs)
        except UsageError:
            raise
        except (TypeError, ValueError) as error:  # an unknown strategy, say: Lightning checks some options only here
            raise UsageError(f"--trainer: {first_line(error)}") from error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what a class has refused, not what the parser makes of it where the option may also be null."""
    try:
        yield
    except ValueError as error:
        if not isinstance(error, UsageError) and isinstance(error.__cause__, UsageError):
            raise error.__cause__ from None
        raise


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


def explain(error: ArgumentError, options: Sequence[str], classes: Mapping[str, tuple[type, ...]]) -> str:
    """One sentence from jsonargparse's nested message, with the nearest valid names.

    Args:
        error: What the parser said.
        options: Names of all options.
        classes: Options whose value is a class, with the base classes of which it must have one.
    """
    text = " ".join(str(error).split())
    if unknown := re.search(r"does not accept option '([^']+)'|unrecognized arguments: (?:--)?([^\s=]+)", text):
        name = unknown[1] or unknown[2]
        return f"unknown option {name}; {nearest(name, options, limit=0)}".rstrip("; ")
    # The message nests as the options do: each level names a key, and a class where the value is one.
    key, owner = "", ""
    while level := re.match(r"(?:Parser key \"([^\"]+)\":|Problem with given class_path '([^']+)':) ?", text):
        key = f"{key}.{level[1]}".strip(".") if level[1] else key
        owner = level[2] or owner
        text = text[level.end() :]
    given = re.search(r"dot import path string: (\S+)|Import path (\S+) does not", text)
    if given and key in classes:
        name = given[1] or given[2]
        bases = classes[key]
        known = [cls.__name__ for base in bases for cls in concrete_subclasses(base)]
        kind = " or ".join(base.__name__ for base in bases)
        return f"--{key} must name a class of kind {kind}, got {name}; {nearest(name.rsplit('.')[-1], known)}"
    if refused := re.match(r"Option '([^']+)' is not accepted", text):
        # Of a constructor with **options the parser finds out what these may be.
        takes = ArgumentParser().add_class_arguments(cast(type, locate(owner)), fail_untyped=False)
        return f"--{key}.{refused[1]} is no option of {owner.rsplit('.')[-1]}; {nearest(refused[1], takes)}"
    if required := re.match(r"the following arguments are required: (.+)", text):
        return f"--{key}.{required[1]} is required by {owner.rsplit('.')[-1]}"
    kinds = dict.fromkeys(re.findall(r"Expected an? <class '([\w.]+)'>", text))
    value = re.search(r"(?:Given|Got) value: (.*?)\.?(?: Got value: .*)?$", text)
    if key and kinds and value:
        return f"--{key} must be {' or '.join(kinds).replace('NoneType', 'null')}, got {value[1]}"
    if text.startswith("Unexpected config: "):
        return text.replace("Unexpected config:", "--config must be a YAML file of options, got", 1)
    if text.startswith("Problems parsing config"):
        return text.replace("Problems parsing config", "--config must be a YAML file of options", 1)
    return f"--{key}: {text}" if key else text


def class_options(prefix: str, owner: type) -> dict[str, tuple[type, ...]]:
    """The arguments of ``owner`` whose value is a class of some kind, as ``prefix.argument`` to the base classes.

    A factory ``Callable[[...], Base]`` counts as ``Base``; the fields of dataclasses are looked through.
    """
    found: dict[str, tuple[type, ...]] = {}
    for name, hint in get_type_hints(owner.__init__).items():  # type: ignore[misc]
        for part in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
            target = get_args(part)[-1] if get_origin(part) is Callable else part
            if is_dataclass(target) and isinstance(target, type):
                found |= class_options(f"{prefix}.{name}", target)
            if inspect.isclass(target) and target.__module__ != "builtins":
                found[f"{prefix}.{name}"] = (*found.get(f"{prefix}.{name}", ()), target)
    return found


def concrete_subclasses(base: type) -> list[type]:
    """All public subclasses that can be built, deepest first where classes inherit from one another."""
    found: dict[type, None] = {}
    child: type
    for child in base.__subclasses__():
        found |= dict.fromkeys(concrete_subclasses(child))
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            found[child] = None
    return list(found)
