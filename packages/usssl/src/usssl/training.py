"""``usssl pretrain``, and ``usssl finetune | validate | test``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from shared.cli import Cli, replace_option
from shared.commands import option_value
from shared.data.image_folder import ImageFolder
from shared.data.npz import Npz
from shared.errors import UsageError
from shared.federated.progress import RoundBar
from shared.outputs import output_folder
from usssl.best_checkpoint import BestCheckpoint
from usssl.budget import affordable_epochs
from usssl.cached_features import CachedFeatures
from usssl.echo_clip import EchoClip
from usssl.fetal_heart_phantom.source import PhantomPlanes, PhantomVideos
from usssl.finetuning import Finetuning
from usssl.grid import WORDS
from usssl.labelled import PlaneDataModule
from usssl.plane_csv import CommonClasses, PlaneCsv
from usssl.presets import african_planes, array_packs, camus_views, fetal_planes_db, videos
from usssl.pretraining import Pretraining
from usssl.run_report import ClassifierReport, PretrainingReport
from usssl.runs import newest_checkpoint, newest_run, record_of, require_kind
from usssl.sources.clips import Joined
from usssl.sources.folder import VideoFolder
from usssl.unlabelled import UltrasoundVideoDataModule

NAMED = (
    *(EchoClip, PhantomVideos, VideoFolder, Joined, videos, array_packs),
    *(PhantomPlanes, PlaneCsv, CommonClasses, ImageFolder, Npz, african_planes, camus_views, fetal_planes_db),
)
"""What options name without its module; the parser finds what is imported."""


class UltrasoundTrainer(Trainer):
    """A trainer whose two further methods are the verbs ``pretrain`` and ``finetune``."""

    def pretrain(
        self, model: LightningModule, datamodule: LightningDataModule | None = None, ckpt_path: str | None = None
    ) -> None:
        """Train a backbone on video frames without labels.

        Args:
            model: A :class:`~usssl.pretraining.Pretraining`.
            datamodule: The frames.
            ckpt_path: Checkpoint of an interrupted run to go on with: a file, or ``last``.
        """
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)

    def finetune(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        features: str | None = None,
    ) -> None:
        """Train a classifier of planes, then test the epoch that is best on the validation images.

        Args:
            model: A :class:`~usssl.finetuning.Finetuning`.
            datamodule: The labelled images.
            ckpt_path: Checkpoint of an interrupted run to go on with: a file, or ``last``.
            features: Folder in which a linear probe keeps its features, for later ones on the same weights and images.
        """
        assert isinstance(model, Finetuning)
        kept = None if features is None else output_folder(features, "--features")
        if isinstance(datamodule, PlaneDataModule) and model.features_are_fixed and datamodule.augment is None:
            print("features: computed once, for neither backbone nor images change")
            datamodule = CachedFeatures(datamodule, model.network.backbone, self.strategy.root_device, kept)
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        if self.state.finished and not self.fast_dev_run:  # type: ignore[attr-defined]
            best = next((c.best_model_path for c in self.checkpoint_callbacks if isinstance(c, BestCheckpoint)), "")
            self.test(model, datamodule=datamodule, ckpt_path=best or None, weights_only=True, verbose=False)


HIDDEN = {"model", "datamodule"}


class PretrainCli(Cli):
    """``usssl pretrain``."""

    trains = "pretrain"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"pretrain": HIDDEN}

    def links(self) -> list[tuple[str, str]]:
        return [("seed_everything", "model.seed")]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"checkpoint.filename": "epoch={epoch:04d}", "checkpoint.save_top_k": 1})

    def add_verb_arguments(self, verb: str, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--budget_minutes",
            type=float | None,
            default=None,
            help="Train as many epochs as fit into so many minutes of CPU time (of the clock on an accelerator), found "
            "by timing a few steps; takes the place of trainer.max_epochs. The config of the run keeps the number.",
        )

    def before_instantiate_classes(self) -> None:
        """Give the data the seed of the run."""
        follow_seed(self.config[self.subcommand])
        super().before_instantiate_classes()

    def before_pretrain(self) -> None:
        """Choose the number of epochs, where a budget is given."""
        config = self.config[self.subcommand]
        if config.budget_minutes is None:
            return
        epochs, seconds = affordable_epochs(config.budget_minutes, self.model, self.datamodule, self.trainer)
        print(f"budget: {epochs} epochs, at {seconds:.3g} s a step")
        self.trainer.fit_loop.max_epochs = epochs
        config.trainer.max_epochs, config.budget_minutes = epochs, None
        self.save_config()

    def _prepare(self, verb: str, words: list[str]) -> tuple[list[str], Path | None]:
        words, folder = super()._prepare(verb, words)
        if given := option_value(words, "--ckpt_path"):
            require_kind(Path(given), "pretrain")
        return words, folder


class FinetuneCli(Cli):
    """``usssl finetune | validate | test``: the head is built for the data, the backbone for its weights."""

    trains = "finetune"

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        lightnings = LightningCLI.subcommands()
        return {"finetune": HIDDEN} | {verb: lightnings[verb] for verb in ("validate", "test")}

    def links(self) -> list[tuple[str, str]]:
        return [
            ("data.num_classes", "model.num_classes"),
            ("data.class_names", "model.class_names"),
            ("data.class_counts", "model.class_counts"),
            ("seed_everything", "model.seed"),
        ]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"checkpoint.filename": "epoch={epoch:04d}", "checkpoint.save_top_k": 1})

    def _prepare(self, verb: str, words: list[str]) -> tuple[list[str], Path | None]:
        if verb in ("validate", "test") and option_value(words, "--ckpt_path") in (None, "last"):
            root = Path(option_value(words, "--run.root") or "runs")
            kept = newest_checkpoint(root, "finetune", self._run_name(words))
            if kept is not None:
                words = replace_option([*words, "--ckpt_path", "last"], "--ckpt_path", str(kept))
        words, folder = super()._prepare(verb, words)
        if given := option_value(words, "--ckpt_path"):
            require_kind(Path(given), "finetune")
        return words, folder

    def before_instantiate_classes(self) -> None:
        """Say where the backbone's weights come from, and keep it in the config of the run."""
        config = self.config[self.subcommand]
        if self.subcommand == self.trains and config.trainer.max_epochs == 0:
            raise UsageError("trainer.max_epochs must be at least 1, got 0")
        follow_seed(config)
        given = None if self.parse_only else config.get("ckpt_path")
        if not self.parse_only and given is None:
            choose_init(config)
        super().before_instantiate_classes()
        if given is not None:
            # The weights come from the checkpoint, so the file that they once started from need not be there.
            config.model.backbone = record_of(Path(given), "--ckpt_path")["backbone"]
            config.model.init = "random"


def follow_seed(config: Namespace) -> None:
    """Put the seed of the run in the place of ``data.seed: null``."""
    given = config.seed_everything
    if config.data.seed is None and isinstance(given, int) and not isinstance(given, bool):
        config.data.seed = given


def choose_init(config: Namespace) -> None:
    """Put a word or a path in the place of ``model.init: null`` and ``last``, and say so.

    Raises:
        UsageError: ``last``, and there is no pretraining; or a file that is not there.
    """
    if config.model.init not in (None, "last"):
        if config.model.init not in WORDS and not Path(config.model.init).expanduser().is_file():
            raise UsageError(
                f"--model.init must be an existing file, random, imagenet or last, got {config.model.init}"
            )
        return
    root = Path(config.run.root)
    run = newest_run(root, "pretrain")
    if run is None:
        if config.model.init == "last":
            raise UsageError(f"--model.init last needs a run of usssl pretrain, found none in {root / 'usssl'}")
        print(f"initial weights: random, for {root / 'usssl'} holds no run of usssl pretrain (pretrained: none)")
        config.model.init = "random"
        return
    config.model.init = str(newest_checkpoint(root, "pretrain", run.parent.name))
    print(f"initial weights: the newest pretraining, {run}")


def build_pretraining(words: Sequence[str], callbacks: Sequence[Callback] = (), **options: Any) -> PretrainCli:
    """Run ``pretrain`` with these callbacks beside the configured ones.

    ``options`` are those of :class:`shared.cli.Cli`.
    """
    return PretrainCli(
        "usssl",
        Pretraining,
        UltrasoundVideoDataModule,
        words,
        callbacks=callbacks,
        trainer_class=UltrasoundTrainer,
        **options,
    )


def parsed_pretraining(options: Sequence[str]) -> PretrainCli:
    """The options of ``pretrain`` and nothing built, written or run: for what looks at the data alone."""
    return build_pretraining(["pretrain", *options], parse_only=True)


def build_classifier(words: Sequence[str], callbacks: Sequence[Callback] = (), **options: Any) -> FinetuneCli:
    """Run ``finetune``, ``validate`` or ``test``, with callbacks and options as for :func:`build_pretraining`."""
    return FinetuneCli(
        "usssl",
        Finetuning,
        PlaneDataModule,
        words,
        callbacks=[BestCheckpoint(), *callbacks],
        trainer_class=UltrasoundTrainer,
        **options,
    )


def pretrain(words: list[str]) -> None:
    """``usssl pretrain`` with progress bar and report."""
    build_pretraining(words, [RoundBar("macro_f1", "epoch"), PretrainingReport()])


def classify(words: list[str]) -> None:
    """``usssl finetune | validate | test`` with progress bar and report."""
    build_classifier(words, [RoundBar("macro_f1", "epoch"), ClassifierReport()])
