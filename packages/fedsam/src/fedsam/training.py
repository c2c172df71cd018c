"""``fedsam fit | validate | test | predict``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import DataLoader

from fedsam.data import VolumeDataModule
from fedsam.module import FederatedSegmenter
from fedsam.run_report import RunReport
from fedsam.scans import Scans, normalisation_of, scans_at
from fedsam.segmentation_output import write_segmentation
from shared.cli import Cli
from shared.federated.progress import RoundBar


class FedsamCli(Cli):
    """The training commands: the model is built for the data, the rounds follow the run's seed."""

    def links(self) -> list[tuple[str, str]]:
        return [
            ("data.image_size", "model.image_size"),
            ("data.num_classes", "model.num_classes"),
            ("data.class_names", "model.class_names"),
            ("seed_everything", "model.seed"),
        ]

    def add_verb_arguments(self, verb: str, parser: LightningArgumentParser) -> None:
        if verb == "predict":
            parser.add_argument(
                "--scans",
                type=list[str] | str | None,
                default=None,
                help="Scans to segment: a NIfTI file, a folder of them, a folder with one DICOM series, or a list of "
                "such. By default the test volumes of the data.",
            )
            parser.add_argument(
                "--out", type=str | None, default=None, help="Where to write (default: the run's folder)."
            )

    def predict(self, **arguments: Any) -> None:
        """Write each scan's classes as ``CASE.nii.gz`` on the scan's own grid, and a picture beside it."""
        options = self.config_init[self.subcommand]
        folder = Path(options.out) if options.out else (self.folder or Path()) / "predictions"
        if options.scans is not None:
            places = [options.scans] if isinstance(options.scans, str) else options.scans
            scans = Scans(scans_at(places, normalisation_of(self.datamodule.source)))
            arguments["dataloaders"] = DataLoader(scans, batch_size=None, collate_fn=_as_it_is)
            arguments["datamodule"] = None
        written = Segmentations(folder, self.datamodule.class_names)
        self.trainer.callbacks.append(written)
        self.trainer.predict(**arguments | {"return_predictions": False})
        print(f"{written.count} label volumes and pictures: {folder}")


def _as_it_is(volume: Any) -> Any:
    return volume


class Segmentations(Callback):
    """Writes predictions as they come, so that only one volume is in memory.

    Args:
        folder: Where to.
        class_names: Background and the foreground classes.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, tuple(class_names)
        self.count = 0

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        """Write one volume."""
        volume, predicted = outputs
        if trainer.is_global_zero:
            print(write_segmentation(self.folder, volume, predicted.numpy(), self.class_names))
        self.count += 1


def build(words: Sequence[str], callbacks: Sequence[Callback]) -> FedsamCli:
    """Run one training command, the verb first, with these callbacks beside the configured ones."""
    return FedsamCli("fedsam", FederatedSegmenter, VolumeDataModule, words, callbacks=callbacks)


def run(words: list[str]) -> None:
    """Run one training command with progress bar and report."""
    build(words, callbacks=[RoundBar("dice"), RunReport()])
