"""``finelip fit | validate | test``."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from finelip import losses
from finelip.captioned_photos import CaptionedPhotos
from finelip.data import CaptionDataModule
from finelip.late_detail.source import LateDetail
from finelip.module import FineLIPModule
from finelip.run_report import RunReport
from finelip.sources.caption_csv import CaptionCsv
from finelip.sources.caption_folder import CaptionFolder
from finelip.sources.captioned_photos_pack import CaptionedPhotosPack
from finelip.sources.coco import CocoCaptions
from finelip.sources.dci import Dci, LongDci
from finelip.sources.docci import Docci
from finelip.sources.flickr30k import Flickr30k
from finelip.sources.iiw import Iiw
from finelip.sources.pairs import PairSource
from finelip.sources.sharegpt4v import ShareGPT4V
from finelip.sources.tar_shards import TarShards
from finelip.sources.urban1k import Urban1k
from shared.cli import Cli
from shared.federated.progress import RoundBar

NAMED = (
    *(CaptionedPhotos, LateDetail, CaptionedPhotosPack, CaptionCsv, CaptionFolder, TarShards),
    *(ShareGPT4V, Urban1k, Docci, Dci, LongDci, Iiw, CocoCaptions, Flickr30k),
    losses,
)
"""What options name without its module; the parser finds what is imported."""


class FinelipCli(Cli):
    """The training commands: captions are cut and pictures brought to what the model takes."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        lightnings = Cli.subcommands()
        return {verb: lightnings[verb] for verb in ("fit", "validate", "test")}

    def links(self) -> list[tuple[str, str]]:
        return [
            ("model.context_length", "data.context_length"),
            ("model.image_size", "data.image_size"),
            ("seed_everything", "model.seed"),
        ]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.set_defaults({"checkpoint.filename": "epoch={epoch:04d}", "checkpoint.save_top_k": 1})

    def add_verb_arguments(self, verb: str, parser: LightningArgumentParser) -> None:
        if verb != self.trains:
            parser.set_defaults({"verbose": False})  # the recalls are printed as a table of their own

    def before_instantiate_classes(self) -> None:
        """Give the data the seed of the run; the file that a checkpoint once started from need not be there."""
        config = self.config[self.subcommand]
        follow_seed(config)
        super().before_instantiate_classes()
        if not self.parse_only and config.get("ckpt_path") is not None:
            config.model.init = "random"


def follow_seed(config: Namespace) -> None:
    """Put the seed of the run in the place of ``data.seed: null``."""
    given = config.seed_everything
    if config.data.seed is None and isinstance(given, int) and not isinstance(given, bool):
        config.data.seed = given


def build(words: Sequence[str], callbacks: Sequence[Callback] = (), **options: Any) -> FinelipCli:
    """Run a training command with these callbacks beside the configured ones.

    ``options`` are those of :class:`shared.cli.Cli`.
    """
    return FinelipCli("finelip", FineLIPModule, CaptionDataModule, words, callbacks=callbacks, **options)


def run(words: list[str]) -> None:
    """``finelip fit | validate | test`` with progress bar and report."""
    build(words, [RoundBar("fused/t2i_r1", "epoch"), RunReport()])


def source_of(options: Sequence[str]) -> PairSource:
    """The source of captioned pictures that the options of ``finelip fit`` name; no model is built."""
    source: PairSource = build(["fit", *options], parse_only=True).part("data")["source"]
    return source
