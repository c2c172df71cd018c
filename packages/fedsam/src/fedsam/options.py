"""The options of ``fedsam fit``, for verbs that look at a run without training."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from fedsam.data import VolumeDataModule
from fedsam.module import FederatedSegmenter
from fedsam.training import FedsamCli


class FitOptions(FedsamCli):
    """The parsed options of ``fit`` and a few of the verb's own; see :meth:`shared.cli.Cli.part`.

    Args:
        words: The words after ``fedsam``, the verb first.
        own: Options of the verb alone: name to the arguments of ``add_argument``.
    """

    def __init__(self, words: Sequence[str], own: Mapping[str, Mapping[str, Any]]) -> None:
        self.own = own
        super().__init__("fedsam", FederatedSegmenter, VolumeDataModule, ["fit", *words[1:]], parse_only=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name, arguments in self.own.items():
            parser.add_argument(f"--{name}", **{"default": None, **arguments})

    @property
    def chosen(self) -> Namespace:
        """All options."""
        return self.config[self.subcommand]
