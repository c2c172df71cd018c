"""The pictures and the pages of pretraining and of fine-tuning."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from shared.plots import Curve, confusion, curves, gallery, save
from shared.report import Report, duration
from shared.runs import RunLogger, folder_of_checkpoint, read_metrics, run_folder_of
from usssl.augmentation.normalisation import MEAN, STD
from usssl.embedding_picture import embedding_picture
from usssl.finetuning import Finetuning
from usssl.labelled import PlaneDataModule
from usssl.online_probe import features_of
from usssl.pretraining import Pretraining
from usssl.unlabelled import UltrasoundVideoDataModule

PICTURED = 6
EMBEDDED = 500
Series = Mapping[str, list[tuple[int, float]]]


class PretrainingReport(Callback):
    """After pretraining, draws views, curves, monitors and features, and writes ``report.html``."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = written(trainer)
        if folder is None:
            return
        data: UltrasoundVideoDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, Pretraining)
        record = json.loads((folder / "results.json").read_text())
        page = write_pretraining(folder, record, pl_module, data)
        loss = record["metrics"].get("train/loss")
        told = f"train/loss {loss:.3f}, " if loss is not None else ""
        epochs = f"{record['epochs']} epoch{'' if record['epochs'] == 1 else 's'}"
        print(f"{told}{epochs} in {duration(record['wall_seconds'])}\nreport: {page}")


class ClassifierReport(Callback):
    """After a test, prints the scores and writes ``report.html``."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        assert isinstance(pl_module, Finetuning)
        scores = trainer.callback_metrics
        low, high = pl_module.intervals["macro_f1"]
        data: PlaneDataModule = trainer.datamodule  # type: ignore[attr-defined]
        print(
            f"test/macro_f1 {float(scores['test/macro_f1']):.3f} (95 % CI {low:.3f} to {high:.3f}), balanced accuracy "
            f"{float(scores['test/balanced_accuracy']):.3f} on {data.provenance} data ({data.data_name}), pretrained: "
            f"{pl_module.pretrained}"
        )
        folder = written(trainer) or (folder_of_checkpoint(Path(str(trainer.ckpt_path))) if trainer.ckpt_path else None)
        if folder is None or not (folder / "results.json").is_file():
            return
        record = json.loads((folder / "results.json").read_text())
        tested = json.loads((folder / "results_test.json").read_text())
        print(f"report: {write_classification(folder, record, tested, pl_module, data)}")


def written(trainer: Trainer) -> Path | None:
    """The run folder, with everything logged so far, where this process writes one."""
    folder = run_folder_of(trainer)
    if folder is None or not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        if isinstance(logger, RunLogger):
            logger.save()
    return folder if (folder / "metrics.csv").is_file() else None


def unnormalised(image: Tensor) -> np.ndarray:
    """``(S, S, 3)`` in [0, 1] of a ``(3, S, S)`` normalised image."""
    colours = image.float().cpu() * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    return colours.clamp(0, 1).permute(1, 2, 0).numpy()


def some_views(data: UltrasoundVideoDataModule) -> list[np.ndarray]:
    """The first items of an epoch as a method sees them: a row of each view."""
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    views = batch["views"] if isinstance(batch, Mapping) else batch
    return [unnormalised(image) for view in views for image in view[:PICTURED]]


@torch.no_grad()
def frame_features(model: Pretraining, data: UltrasoundVideoDataModule) -> tuple[Tensor, list[str]]:
    """``(N, F)`` features of frames evenly taken from the training frames, and the machine of each."""
    loader = data.predict_dataloader()
    frames: Any = loader.dataset
    rows = np.unique(np.linspace(0, len(frames) - 1, min(EMBEDDED, len(frames))).astype(int))
    training = model.backbone.training
    model.backbone.eval()
    parts = [
        model(torch.stack([frames[row] for row in rows[start : start + 64].tolist()]).to(model.device)).float().cpu()
        for start in range(0, len(rows), 64)
    ]
    model.backbone.train(training)
    machines = [data.clips[clip].machine or "unknown machine" for clip in data.index[rows, 0].tolist()]
    return torch.cat(parts), machines


def curve(series: Series, name: str) -> Curve:
    """One metric over the epochs, counted from 1."""
    return Curve([value for _, value in series[name]], x=[epoch + 1 for epoch, _ in series[name]])


def add_curves(report: Report, folder: Path, series: Series, names: Mapping[str, str], file: str, told: str) -> None:
    """A picture of those metrics that were logged; none of none."""
    drawn = {label: curve(series, name) for name, label in names.items() if name in series}
    if drawn:
        report.figure(save(curves(drawn, x_label="epoch"), folder / file), told)


def write_pretraining(
    folder: Path, record: dict[str, Any], model: Pretraining, data: UltrasoundVideoDataModule
) -> Path:
    """Write the pictures and ``report.html`` of a pretraining; returns the page's path."""
    series = read_metrics(folder / "metrics.csv")
    facts, told = record["model"], record["data"]
    report = Report(f"{facts['method']} on {facts['backbone']}", f"{told['name']} · {told['train']['frames']} frames")
    report.section(
        "What is trained on",
        "Frames without labels, changed at random: the views of a frame shall have alike features. A loss says how "
        "training goes; whether the features are of use, only a task with labels can tell.",
    )
    pictures = some_views(data)
    report.figure(
        save(gallery(pictures, columns=min(PICTURED, data.batch_size)), folder / "views.png"), "Views, a row each."
    )
    report.table(
        ["", "training"],
        [(what, count or "unknown") for what, count in told["train"].items()],
        caption="Counted",
        provenance=told["provenance"],
    )
    report.section("Training")
    losses = {"train/loss": "training", "val/loss": "validation"}
    add_curves(report, folder, series, losses, "loss.png", "Loss after each epoch.")
    add_curves(report, folder, series, {"lr": "learning rate"}, "lr.png", "Learning rate of the first group.")
    report.section(
        "Collapse",
        "Deviation of the unit embeddings relative to an even spread over the sphere: near 0 all images look alike. "
        "Effective rank: how many directions the embeddings of a batch really use.",
    )
    add_curves(
        report,
        folder,
        series,
        {"collapse/relative_deviation": "relative deviation"},
        "deviation.png",
        "1 is even, 0 is collapsed.",
    )
    add_curves(report, folder, series, {"collapse/effective_rank": "effective rank"}, "rank.png", "Effective rank.")
    probes = {name: name.removeprefix("probe/") for name in series if name.startswith("probe/")}
    add_curves(report, folder, series, probes, "probe.png", "Classes told from the features while training.")
    features, machines = frame_features(model, data)
    if len(features) > 1 and features.isfinite().all():
        report.section("Features")
        report.figure(
            save(embedding_picture(features, machines), folder / "features.png"),
            f"Features of {len(features)} training frames"
            + (", coloured by machine." if len(set(machines)) > 1 else "."),
        )
    return reproduced(report, record).write(folder / "report.html")


def write_classification(
    folder: Path, record: dict[str, Any], tested: dict[str, Any], model: Finetuning, data: PlaneDataModule
) -> Path:
    """Write the pictures and ``report.html`` of a fine-tuning and its test; returns the page's path."""
    series = read_metrics(folder / "metrics.csv")
    facts, told, scores = tested["model"], tested["data"], tested["metrics"]
    names = told["class_names"]
    report = Report(
        f"{facts['backbone']}, {'linear probe' if facts['mode'] == 'linear' else 'fully fine-tuned'}",
        f"{told['name']} · {told['fraction']:g} % of the labels, {told['images']['train']} images",
    )
    chosen = "the epoch best on the validation images" if told["validated_on"] == "validation" else "the last epoch"
    report.headline(
        f"macro-F1 on {told['images']['test']} test images, {chosen}",
        scores["test/macro_f1"],
        provenance=told["provenance"],
        pretrained=facts["pretrained"],
        interval=tuple(facts["intervals_95"]["macro_f1"]),
        note=f"Initial weights: {facts['init']}.",
    )
    counts = model.metrics.confusion.cpu()
    report.section("Test")
    report.figure(save(confusion(counts.numpy(), names), folder / "confusion.png"), "Rows are the true classes.")
    report.table(
        ["class", "images", "precision", "recall", "F1"],
        per_class(counts, names),
        caption="Of each class",
        provenance=told["provenance"],
    )
    report.table(
        ["score", "test"],
        [(name.removeprefix("test/"), value) for name, value in scores.items() if name.startswith("test/")],
        caption="All scores",
        provenance=told["provenance"],
    )
    report.section("Training")
    add_curves(report, folder, series, {"train/loss": "training", "val/loss": "validation"}, "loss.png", "Loss.")
    watched = {f"val/{score}": score.replace("_", " ") for score in ("macro_f1", "balanced_accuracy")}
    add_curves(report, folder, series, watched, "curves.png", "Validation images after each epoch.")
    backbone = model.network.backbone
    features, labels = features_of(backbone, data.plain_dataloader("test"), model.device)
    if len(features) > 1 and features.isfinite().all():
        report.section("Features")
        report.figure(
            save(embedding_picture(features, [names[label] for label in labels.tolist()]), folder / "features.png"),
            "Features of the test images, coloured by class.",
        )
    report.section("Data")
    report.table(
        ["class", *told["class_counts"]],
        [(name, *(counted[n] for counted in told["class_counts"].values())) for n, name in enumerate(names)],
        caption="Images",
        provenance=told["provenance"],
    )
    return reproduced(report, record).write(folder / "report.html")


def per_class(confusion: Tensor, names: list[str]) -> list[tuple[str, int, float | None, float | None, float | None]]:
    """Name, true images, precision, recall and F1 of every class; ``None`` where a ratio is 0/0."""
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)

    def ratio(above: Tensor, below: Tensor) -> float | None:
        return float(above) / float(below) if below > 0 else None

    return [
        (
            name,
            int(true[n]),
            ratio(hits[n], predicted[n]),
            ratio(hits[n], true[n]),
            ratio(2 * hits[n], true[n] + predicted[n]),
        )
        for n, name in enumerate(names)
    ]


def reproduced(report: Report, record: dict[str, Any]) -> Report:
    """How to get the run again."""
    return report.reproduce(
        record["command"],
        versions=record["versions"],
        seconds=record["wall_seconds"],
        seed=record["seed"],
        device=record["device"],
    )
