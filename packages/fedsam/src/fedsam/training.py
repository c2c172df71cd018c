"""``fedsam fit | validate | test``."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fedsam.data import VolumeDataModule
from fedsam.module import FederatedSegmenter
from fedsam.run_report import RunReport
from fedsam.scan_reading import reading_of
from shared.federated.cli import FederatedCli
from shared.federated.progress import RoundBar
from shared.runs import run_folder_of


class FedsamCli(FederatedCli):
    """The training commands: the model is built for the data, the rounds follow the run's seed."""

    builder = "fedsam.training:build"

    def links(self) -> list[tuple[str, str]]:
        return [
            ("data.image_size", "model.image_size"),
            ("data.num_classes", "model.num_classes"),
            ("data.class_names", "model.class_names"),
            ("seed_everything", "model.seed"),
        ]


class ScanRecord(Callback):
    """Writes ``scans.json`` when training starts: with it the model segments scans where the data are not at hand."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder_of(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        data: VolumeDataModule = trainer.datamodule  # type: ignore[attr-defined]
        cases = data.cases("train")
        reading = reading_of(data.data_name, data.provenance, data.class_names, data.sites, cases, data.anti_transposed)
        reading.write(folder)


class LastTrainer(Callback):
    """Keeps hold of the trainer, for who wants to look at a run that ended."""

    trainer: Trainer

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer


def build(words: Sequence[str], callbacks: Sequence[Callback], **options: Any) -> FedsamCli:
    """Run one training command, the verb first, with these callbacks beside the configured ones.

    ``options`` are those of :class:`shared.federated.cli.FederatedCli`.
    """
    return FedsamCli(
        "fedsam", FederatedSegmenter, VolumeDataModule, words, callbacks=[ScanRecord(), *callbacks], **options
    )


def run(words: list[str], **options: Any) -> None:
    """Run one training command with progress bar and report; ``options`` as for :func:`build`."""
    build(words, callbacks=[RoundBar("dice"), RunReport()], **options)
