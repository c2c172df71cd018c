"""The options of ``fedseca fit``, for verbs that look at a run without running it."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from fedseca.data import FederatedImages
from fedseca.module import FederatedClassifier
from fedseca.training import FedsecaCli


class FitOptions(FedsecaCli):
    """The parsed options of ``fit`` and a few of the verb's own; see :meth:`shared.cli.Cli.part`.

    Args:
        words: The words after ``fedseca``, the verb first.
        own: Options of the verb alone: name to type; each is ``None`` by default.
    """

    def __init__(self, words: Sequence[str], own: dict[str, Any]) -> None:
        self.own = own
        super().__init__("fedseca", FederatedClassifier, FederatedImages, ["fit", *words[1:]], parse_only=True)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        for name, kind in self.own.items():
            parser.add_argument(f"--{name}", type=kind | None, default=None)

    @property
    def chosen(self) -> Namespace:
        """All options."""
        return self.config[self.subcommand]
