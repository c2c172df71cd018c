"""The epoch that is kept."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from shared.checkpoints import is_whole_checkpoint
from shared.runs import run_folder_of

BEST = "best"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch with the best balanced accuracy on the validation images, the first of equals.

    Where validation images are the test images nothing may be chosen by them, and nothing is kept.
    """

    def __init__(self) -> None:
        super().__init__(
            filename=BEST, monitor="val/balanced_accuracy", mode="max", save_top_k=1, enable_version_counter=False
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = run_folder_of(trainer)
        if stage == "fit" and folder is not None:
            self.dirpath = str(folder.resolve() / "checkpoints")
        if getattr(trainer.datamodule, "val_is_test", False):  # type: ignore[attr-defined]
            self.monitor, self.save_top_k = None, 0
        super().setup(trainer, pl_module, stage)


def best_of(folder: Path) -> Path | None:
    """The best checkpoint of a run folder, or ``None``."""
    path = folder / "checkpoints" / f"{BEST}.ckpt"
    return path if path.is_file() and is_whole_checkpoint(path) else None
