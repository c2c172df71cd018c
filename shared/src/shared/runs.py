"""The run folder: ``config.yaml``, ``metrics.csv``, ``results.json``, ``checkpoints/`` and pictures of one run."""

import csv
import io
import json
import re
import time
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from shared.atomic import write_text
from shared.errors import UsageError
from shared.versions import versions


def folder_of_name(root: str | Path, package: str, name: str) -> Path:
    """``root/package/name``, the folder of all versions of a run.

    Raises:
        UsageError: The name is not that of a single folder.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"--run.name must be the name of one folder, below --run.root, got {name!r}")
    return Path(root) / package / name


def new_run_folder(root: str | Path, package: str, name: str) -> Path:
    """Make and return the first free ``root/package/name/version_N``."""
    parent = folder_of_name(root, package, name)
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(p.name.removeprefix("version_")) for p in parent.glob("version_*") if p.name[8:].isdigit()]
    number = max(taken, default=-1) + 1
    while True:
        folder = parent / f"version_{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # another process took it meanwhile
            number += 1


def folder_of_checkpoint(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in, or ``None`` if it lies somewhere else."""
    folder = checkpoint.resolve().parent.parent
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())  # as new_run_folder gives it: shorter to print, and of no machine
    return folder if (folder / "config.yaml").is_file() else None


def package_of_run(folder: Path) -> str | None:
    """The command that wrote a run folder, as the first line of its ``config.yaml`` tells."""
    with (folder / "config.yaml").open(encoding="utf-8") as file:
        first = re.match(r"# (\w+) ", file.readline())
    return first and first[1]


class RunLogger(Logger):
    """Writes ``metrics.csv``: one row per step, whatever was logged at that step side by side.

    A resumed run goes on in the same file: rows of the epochs that will be run again are dropped first.

    Args:
        folder: The run folder; ``None`` writes nothing (other processes than the first).
        package: Name of the package.
        run: Name of the run.
    """

    def __init__(self, folder: Path | None, package: str, run: str) -> None:
        super().__init__()
        self.folder = folder
        self.package = package
        self.run = run
        self.file = folder and folder / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] = []
        self._whole = 0  # rows in the file that will not change any more
        self._size = -1  # bytes of the file up to there; -1: write it anew
        self._changed = False

    @property
    def name(self) -> str:
        return self.run

    @property
    def version(self) -> str:
        return self.folder.name if self.folder else ""

    @property
    def save_dir(self) -> str | None:
        return str(self.folder.parent) if self.folder else None

    @property
    def log_dir(self) -> str | None:
        """The run folder, where Lightning's callbacks put their files."""
        return str(self.folder) if self.folder else None

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them all."""

    def continue_from(self, epoch: int) -> None:
        """Keep the rows of epochs before ``epoch`` that an earlier sitting wrote."""
        if self.file is None or not self.file.exists():
            return
        with self.file.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if (row.get("epoch") or "").isdigit() and int(row["epoch"]) < epoch]
            self._columns = list(reader.fieldnames or [])
        self._rows, self._size, self._changed = rows, -1, bool(rows)
        self.save()

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add ``metrics`` to the row of ``step``."""
        if self.file is None:
            return
        epoch = int(metrics.pop("epoch", -1))
        row = self._rows[-1] if self._rows else None
        if row is None or row["step"] != str(step) or row["epoch"] != str(epoch):
            self.save()
            row = {"epoch": str(epoch), "step": str(step)}
            self._rows.append(row)
            self._changed = True
        row.update({name: f"{value:.9g}" for name, value in metrics.items()})
        self._changed = True
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._size = -1

    @rank_zero_only
    def save(self) -> None:
        """Bring the file up to date: the last row is written again while it grows, a new column rewrites all."""
        if self.file is None or not self._changed:
            return
        if self._size < 0:
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text(self._text([dict(zip(self._columns, self._columns, strict=True)), *self._rows[:-1]]))
            self._size = temporary.stat().st_size
            with temporary.open("a") as file:
                file.write(self._text(self._rows[-1:]))
            temporary.replace(self.file)
        else:
            with self.file.open("r+") as file:
                file.seek(self._size)
                file.write(self._text(self._rows[self._whole : -1]))
                self._size = file.tell()
                file.write(self._text(self._rows[-1:]))
                file.truncate()
        self._whole = len(self._rows) - 1
        self._changed = False

    def _text(self, rows: list[dict[str, str]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        return text.getvalue()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row."""
        self.save()


def read_metrics(file: Path) -> dict[str, list[tuple[int, float]]]:
    """The series of a ``metrics.csv``: metric name to ``(epoch, value)`` pairs in order."""
    series: dict[str, list[tuple[int, float]]] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            for name, value in row.items():
                if name not in ("epoch", "step") and value:
                    series.setdefault(name, []).append((int(row["epoch"]), float(value)))
    return series


def run_folder_of(trainer: Trainer) -> Path | None:
    """The run folder of a trainer, the same on every rank, or ``None`` if the run keeps nothing."""
    own = next((logger.log_dir for logger in trainer.loggers if isinstance(logger, RunLogger)), None)
    shared_by_all = trainer.strategy.broadcast(own)
    return Path(shared_by_all) if shared_by_all else None


class RunRecord(Callback):
    """Writes ``results.json`` at the end of a verb: final metrics, provenance, seeds, versions, day, wall time.

    The wall time of a training that was interrupted is that of its parts, each as far as a checkpoint holds it.

    The data module tells about the data through ``describe()``, the model about itself through ``describe()``.

    Args:
        folder: The run folder; ``None`` writes nothing.
        package: Name of the package.
        command: The command line that made the run.
        seed: The seed of the run.
    """

    def __init__(self, folder: Path | None, package: str, command: str, seed: int | None) -> None:
        self.folder = folder
        self.package = package
        self.command = command
        self.seed = seed
        self._began = time.perf_counter()
        self._before = 0.0
        self._trained = False

    @property
    def _trained_seconds(self) -> float:
        return self._before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"wall_seconds": self._trained_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = state_dict["wall_seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = True
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and trainer.current_epoch > 0:
                logger.continue_from(trainer.current_epoch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._began = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._trained or self.folder is None or not (self.folder / "results.json").exists():
            self._write(trainer, pl_module, "fit")  # else a finished run was resumed, and its record stands

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, pl_module: LightningModule, verb: str) -> None:
        if self.folder is None or not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        record: dict[str, Any] = {
            "package": self.package,
            "command": self.command,
            "date": datetime.now(UTC).date().isoformat(),
            "seed": self.seed,
            "metrics": metrics,
            "epochs": trainer.current_epoch,
            "data": describe(trainer.datamodule),  # type: ignore[attr-defined]
            "model": describe(pl_module),
            "wall_seconds": round(self._trained_seconds if verb == "fit" else time.perf_counter() - self._began, 3),
            "device": device_name(pl_module.device),
            **peak_gpu_memory(pl_module.device),
            "versions": versions(self.package),
        }
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger) and verb == "fit":
                logger.save()
                if logger.file is not None and logger.file.exists():
                    record["mean_of_last_5"] = mean_of_last(read_metrics(logger.file), 5)
        write_json(self.folder / ("results.json" if verb == "fit" else f"results_{verb}.json"), record)


def mean_of_last(series: dict[str, list[tuple[int, float]]], count: int) -> dict[str, float]:
    """Mean of the last ``count`` values of every evaluated metric (``val/…`` and ``test/…``)."""
    return {
        name: sum(value for _, value in pairs[-count:]) / len(pairs[-count:])
        for name, pairs in series.items()
        if name.startswith(("val/", "test/"))
    }


def describe(part: object) -> dict[str, Any]:
    """What a model or data module says about itself; empty if it says nothing."""
    tell = getattr(part, "describe", None)
    return dict(tell()) if callable(tell) else {}


def device_name(device: torch.device) -> str:
    """``cpu`` or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def peak_gpu_memory(device: torch.device) -> dict[str, int]:
    """``peak_gpu_bytes``: the most that this process's tensors took on a GPU at once; empty on the CPU."""
    return {"peak_gpu_bytes": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON: under another name first, then renamed."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=True) + "\n")
