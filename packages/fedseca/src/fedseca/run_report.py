"""The pictures and the page of one training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from shared.metrics.classification import bootstrap_intervals
from shared.plots import Curve, bars, confusion, curves, save
from shared.report import Report
from shared.run_report import RunPage, left_out, reproduce, split_of
from shared.runs import describe, read_metrics
from shared.text_table import counted, text_table

PROSE = {
    "federated": (
        "Each round, every client trains the current global model on its own images and uploads the result; hostile "
        "clients upload what the attack crafts; the server's rule combines the uploads. The score is that of the "
        "global model after the round. Nothing was selected on it: the last round counts, whatever came before."
    ),
    "local": (
        "Every client trains a model of its own on its own images, round after round; nothing is uploaded and nobody "
        "attacks. Each model is scored on all evaluation images, and the score is the mean over the clients' models. "
        "Nothing was selected on it: the last round counts, whatever came before."
    ),
    "centralised": "",
}


class RunReport(RunPage):
    """After training, draws curves, confusion matrix and client data, and writes ``report.html``."""

    score = "macro_f1"

    def write(self, folder: Path, record: dict[str, Any], trainer: Trainer, module: Any) -> Path:
        names = trainer.datamodule.client_names  # type: ignore[attr-defined]
        return write_report(folder, record, module.local.metrics, names)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            told, clients = describe(pl_module), trainer.datamodule.client_ids  # type: ignore[attr-defined]
            print(f"{titled(told)}, {clients_of(len(clients), told)}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule.describe()  # type: ignore[attr-defined]
        scores = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            print(text_table(["", "test"], [[name, f"{value:.3f}"] for name, value in scores.items()]) + "\n")
            told = f"{data['images']['test']:,} test images, {data['provenance']} data"
            print(f"test/macro_f1 {scores['macro_f1']:.3f} on {told}")


def titled(model: Mapping[str, Any]) -> str:
    """What a run is about, from what its model tells of itself."""
    if model["regime"] == "federated":
        return f"{model['aggregator']} under {model['attack']}"
    return "Every client alone" if model["regime"] == "local" else "Centralised training"


def clients_of(clients: int, model: Mapping[str, Any]) -> str:
    """How many clients there are, and how many of them are hostile where that means anything."""
    hostile = f", {len(model['byzantine'])} hostile" if model["regime"] == "federated" else ""
    return counted(clients, "client") + hostile


def write_report(folder: Path, record: dict[str, Any], metrics: Any, names: Sequence[str] | None = None) -> Path:
    """Write the pictures and ``report.html`` of a run folder and return the page's path.

    Args:
        folder: The run folder, with its ``metrics.csv``.
        record: Content of its ``results.json``.
        metrics: The classification metrics of the last evaluation.
        names: What the clients are called; without them they have numbers alone.
    """
    series = read_metrics(folder / "metrics.csv")
    data, model = record["data"], record["model"]
    split = split_of(record)
    federated, alone = model["regime"] == "federated", model["regime"] == "local"
    hostile = model["byzantine"] if federated else []
    counts = clients_of(len(data["clients"]), model)
    report = Report(titled(model), f"{data['name']} · {counts} · {model['network']}")
    evaluated = f"{split}/macro_f1" in series
    if evaluated:
        interval = None
        if not alone:  # there the same images come once per client, and the score is a mean over models
            probabilities, targets = metrics.stored()
            predictions = probabilities.argmax(1).cpu()
            interval = bootstrap_intervals(targets.cpu(), predictions, metrics.num_classes)["macro_f1"]
        mean_of_last = record["mean_of_last_5"][f"{split}/macro_f1"]
        report.headline(
            f"macro-F1 on the {data['validated_on']} images after round {record['epochs']}",
            record["metrics"][f"{split}/macro_f1"],
            provenance=data["provenance"],
            pretrained=model["pretrained"],
            interval=interval,
            note=f"Mean of the last five rounds: {mean_of_last:.3f}." if len(series[f"{split}/macro_f1"]) >= 5 else "",
        )
        report.section("Training", PROSE[model["regime"]])
        shown = {name: series[f"{split}/{name}"] for name in ("macro_f1", "accuracy") if f"{split}/{name}" in series}
        drawn = {
            name: Curve([value for _, value in pairs], x=[epoch + 1 for epoch, _ in pairs])
            for name, pairs in shown.items()
        }
        picture = save(curves(drawn, y_label=f"score on {data['validated_on']} images"), folder / "curves.png")
        scored = "Mean scores of the clients' models" if alone else "Scores of the global model"
        report.figure(picture, f"{scored} after each round.")
        table = [
            (name.removeprefix(f"{split}/"), pairs[-1][1]) for name, pairs in series.items() if name.startswith(split)
        ]
        report.table(["metric", "last round"], table, caption="All metrics", provenance=data["provenance"])
        counts = metrics.confusion.cpu().numpy()
        picture = save(confusion(counts, data["class_names"]), folder / "confusion.png")
        report.figure(picture, "Confusion matrix, all clients' models together." if alone else "Confusion matrix.")
    called = dict(zip(data["clients"], names or data["clients"], strict=True))
    left_out(report, folder, {int(client): name for client, name in called.items() if name != client})
    report.section("Data", f"Partition: {data['partition']}.")
    clients = [f"client {name}" + (" (hostile)" if int(k) in hostile else "") for k, name in called.items()]
    partition = bars(list(data["clients"].values()), clients, data["class_names"], x_label="training images")
    report.figure(save(partition, folder / "partition.png"), "What each client trains on.")
    size = f"{model['coordinates']:,} numbers, {model['payload_bytes'] / 1e6:.2f} MB per message"
    reproduce(report, record, model=size)
    return report.write(folder / "report.html")
