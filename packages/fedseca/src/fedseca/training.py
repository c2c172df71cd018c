"""``fedseca fit | validate | test | predict``."""

from collections.abc import Sequence

from lightning.pytorch import Callback

from fedseca.data import FederatedImages
from fedseca.module import FederatedClassifier
from fedseca.run_report import RunReport
from shared.cli import Cli
from shared.federated.progress import RoundBar


class FedsecaCli(Cli):
    """The training commands: the network is built for the data, the rounds follow the run's seed."""

    def links(self) -> list[tuple[str, str]]:
        return [
            ("data.in_channels", "model.in_channels"),
            ("data.num_classes", "model.num_classes"),
            ("seed_everything", "model.seed"),
        ]


def build(words: Sequence[str], callbacks: Sequence[Callback]) -> FedsecaCli:
    """Run one training command, the verb first, with these callbacks beside the configured ones."""
    return FedsecaCli("fedseca", FederatedClassifier, FederatedImages, words, callbacks=callbacks)


def run(words: list[str]) -> None:
    """Run one training command with progress bar and report."""
    build(words, callbacks=[RoundBar(), RunReport()])
