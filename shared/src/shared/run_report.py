"""What the pages of training runs have in common: when they are written, what is printed, how to run it again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from shared.federated.rounds import read_failures
from shared.report import Report, duration
from shared.runs import RunLogger, run_folder_of
from shared.text_table import counted

MOST_FAILURES = 100
"""Rows of the table of clients that were left out."""


class RunPage(Callback):
    """After training, writes the page of the run folder and prints the score and where the page is.

    Attributes:
        score: The score that is printed.
    """

    score: ClassVar[str]
    trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True

    def write(self, folder: Path, record: dict[str, Any], trainer: Trainer, module: Any) -> Path:
        """Write pictures and page of a run folder and return the page's path; ``record`` is its ``results.json``."""
        raise NotImplementedError

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = run_folder_of(trainer)
        if folder is None or not trainer.is_global_zero:
            return
        if not self.trained:  # Lightning found the last epoch in the checkpoint, or was asked for none
            print(f"nothing to train: trainer.max_epochs is {trainer.max_epochs}, {folder} has {trainer.current_epoch}")
            return
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.save()
        if not (folder / "metrics.csv").exists():
            return
        record = json.loads((folder / "results.json").read_text())
        page = self.write(folder, record, trainer, pl_module)
        name = f"{split_of(record)}/{self.score}"
        score = record["metrics"].get(name)
        told = f"{name} {score:.3f} " if score is not None else ""
        data = record["data"]
        print(
            f"{told}on {data['provenance']} data ({data['name']}) after {counted(record['epochs'], 'round')} "
            f"in {duration(record['wall_seconds'])}\nreport: {page}"
        )


def split_of(record: dict[str, Any]) -> str:
    """What the names of the scores after each round begin with.

    Example:
        >>> split_of({"data": {"validated_on": "test"}}), split_of({"data": {"validated_on": "validation"}})
        ('test', 'val')
    """
    return "test" if record["data"]["validated_on"] == "test" else "val"


def left_out(report: Report, folder: Path, names: Mapping[int, str] | None = None) -> None:
    """A section on the clients that were left out of rounds, with the reasons; nothing if there are none.

    Args:
        report: The page.
        folder: The run folder, with its ``rounds.csv``.
        names: What clients are called, where they are called anything.
    """
    failures = read_failures(folder / "rounds.csv")
    if not failures:
        return
    more = len(failures) - MOST_FAILURES
    rest = f" These are the last {MOST_FAILURES}; {more} others stand there." if more > 0 else ""
    report.section("Clients left out", f"Rounds that went on without a client, counted from 0 as in rounds.csv.{rest}")
    called = names or {}
    rows = [(round, called.get(client, client), reason) for round, client, reason in failures[-MOST_FAILURES:]]
    report.table(["round", "client", "reason"], rows)


def reproduce(report: Report, record: dict[str, Any], **more: str) -> None:
    """End a page with the command, versions, time, seed, device and traffic of its run.

    Args:
        report: The page.
        record: Content of the run's ``results.json``.
        **more: Further lines.
    """
    sent = record["model"]["bytes"]
    report.reproduce(
        record["command"],
        versions=record["versions"],
        seconds=record["wall_seconds"],
        seed=record["seed"],
        device=record["device"],
        **{"uploaded": f"{sent['up'] / 1e6:.1f} MB", "downloaded": f"{sent['down'] / 1e6:.1f} MB", **more},
    )
