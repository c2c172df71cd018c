"""``fedseca fit | validate | test | predict``."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from fedseca.data import FederatedImages
from fedseca.module import FederatedClassifier
from fedseca.run_report import RunReport
from shared.federated.cli import FederatedCli
from shared.federated.progress import RoundBar


class FedsecaCli(FederatedCli):
    """The training commands: the network is built for the data, the rounds follow the run's seed."""

    builder = "fedseca.training:build"

    def links(self) -> list[tuple[str, str]]:
        return [
            ("data.in_channels", "model.in_channels"),
            ("data.num_classes", "model.num_classes"),
            ("seed_everything", "model.seed"),
        ]

    def predict(self, **arguments: Any) -> None:
        """Write ``predictions.csv``: a row per test image with its file, if it has one, label, class, probabilities."""
        arguments["return_predictions"] = True
        probabilities = torch.cat(cast(list[Tensor], self.trainer.predict(**arguments))).tolist()
        names, images = self.datamodule.class_names, self.datamodule.test_images
        # What a row is called: its place, and its file where pictures are files.
        named = {"item": range(len(images)), **({"file": images.files} if images.files else {})}
        file = (self.folder or Path()) / "predictions.csv"
        with file.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*named, "label", "predicted", *names])
            for *who, label, row in zip(*named.values(), images.labels, probabilities, strict=True):
                predicted = names[row.index(max(row))]
                writer.writerow([*who, names[label], predicted, *(f"{value:.6f}" for value in row)])
        print(f"predictions: {file}")


class LastTrainer(Callback):
    """Keeps hold of the trainer, for who wants to look at a run that ended early."""

    def __init__(self) -> None:
        self.trainer: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer


def build(words: Sequence[str], callbacks: Sequence[Callback], **options: Any) -> FedsecaCli:
    """Run one training command, the verb first, with these callbacks beside the configured ones.

    ``options`` are those of :class:`shared.federated.cli.FederatedCli`.
    """
    return FedsecaCli("fedseca", FederatedClassifier, FederatedImages, words, callbacks=callbacks, **options)


def run(words: list[str], **options: Any) -> None:
    """Run one training command with progress bar and report; ``options`` as for :func:`build`."""
    build(words, callbacks=[RoundBar(), RunReport()], **options)
