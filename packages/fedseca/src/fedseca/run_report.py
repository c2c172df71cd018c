"""The pictures and the page of one training run."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from shared.metrics.classification import bootstrap_intervals
from shared.plots import Curve, bars, confusion, curves, save
from shared.report import Report
from shared.run_report import RunPage, left_out, reproduce, split_of
from shared.runs import read_metrics

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
        return write_report(folder, record, module.local.metrics)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule.describe()  # type: ignore[attr-defined]
        score = float(trainer.callback_metrics["test/macro_f1"])
        if trainer.is_global_zero:
            print(f"test/macro_f1 {score:.3f} on {data['images']['test']:,} test images, {data['provenance']} data")


def write_report(folder: Path, record: dict[str, Any], metrics: Any) -> Path:
    """Write the pictures and ``report.html`` of a run folder and return the page's path.

    Args:
        folder: The run folder, with its ``metrics.csv``.
        record: Content of its ``results.json``.
        metrics: The classification metrics of the last evaluation.
    """
    series = read_metrics(folder / "metrics.csv")
    data, model = record["data"], record["model"]
    split = split_of(record)
    federated, alone = model["regime"] == "federated", model["regime"] == "local"
    if federated:
        title = f"{model['aggregator']} under {model['attack']}"
    else:
        title = "Every client alone" if alone else "Centralised training"
    hostile = model["byzantine"] if federated else []
    counted = f"{len(data['clients'])} clients" + (f", {len(hostile)} hostile" if federated else "")
    report = Report(title, f"{data['name']} · {counted} · {model['network']}")
    evaluated = f"{split}/macro_f1" in series
    if evaluated:
        interval = None
        if not alone:  # there the same images come once per client, and the score is a mean over models
            probabilities, targets = metrics.stored()
            predictions = probabilities.argmax(1).cpu()
            interval = bootstrap_intervals(targets.cpu(), predictions, metrics.num_classes)["macro_f1"]
        report.headline(
            f"macro-F1 on the {data['validated_on']} images after round {record['epochs']}",
            record["metrics"][f"{split}/macro_f1"],
            provenance=data["provenance"],
            pretrained=model["pretrained"],
            interval=interval,
            note=f"Mean of the last five rounds: {record['mean_of_last_5'][f'{split}/macro_f1']:.3f}.",
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
    left_out(report, folder)
    report.section("Data", f"Partition: {data['partition']}.")
    clients = [f"client {k}" + (" (hostile)" if int(k) in hostile else "") for k in data["clients"]]
    partition = bars(list(data["clients"].values()), clients, data["class_names"], x_label="training images")
    report.figure(save(partition, folder / "partition.png"), "What each client trains on.")
    size = f"{model['coordinates']:,} numbers, {model['payload_bytes'] / 1e6:.2f} MB per message"
    reproduce(report, record, model=size)
    return report.write(folder / "report.html")
