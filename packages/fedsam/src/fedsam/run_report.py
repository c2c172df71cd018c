"""The pictures and the page of one training run."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fedsam.describe import full_numbers
from fedsam.module import FederatedSegmenter
from fedsam.overlays import legend
from fedsam.score_tables import model_table, site_table, told_empty
from fedsam.segmentation_output import picture
from fedsam.segmenter import VolumeSegmenter
from fedsam.volumes import Volume
from shared.atomic import write_text
from shared.plots import Curve, curves, save
from shared.report import Report
from shared.run_report import RunPage, left_out, reproduce, split_of
from shared.runs import folder_of_checkpoint, read_metrics
from shared.text_table import text_table

PICTURED = 4
PROSE = {
    "federated": (
        "Each round, every site fine-tunes its copy on its own windows and sends only what the variant trains; the "
        "server combines the parts and sends them back. Scores are those of the global model after the round."
    ),
    "local": "Every site trains alone; nothing is sent. Scores are the mean over the sites' own models.",
    "centralised": "All windows are trained on in one place, as if scans could be shared.",
}


class RunReport(RunPage):
    """After training, draws curves and overlays and writes ``report.html``; after a test, prints the scores."""

    score = "dice"

    def write(self, folder: Path, record: dict[str, Any], trainer: Trainer, module: Any) -> Path:
        return write_report(folder, record, module, pictured(trainer, module))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, FederatedSegmenter)
        # Of each site's own model where every site trained alone, else of the one that all share.
        own = {data.sites[client]: metrics for client, metrics in pl_module.model_metrics.items()}
        tables: dict[str, Any] = own or {"": pl_module.local.metrics}
        if not trainer.is_global_zero or not all(metrics.update_called for metrics in tables.values()):
            return
        rows = [{"model": model, **row} for model, metrics in tables.items() for row in metrics.volumes()]
        told, masks = data.describe(), list(pl_module.local.metrics.masks)
        scores = scores_of(trainer.callback_metrics, "test")
        volumes = {client["site"]: client["volumes"]["test"] for client in told["clients"].values()}
        print(_as_text(*site_table(scores, volumes, masks)))
        if own:
            print(_as_text(*model_table(scores, list(volumes), [site for site, count in volumes.items() if count])))
        print(told_empty(scores, masks))
        print(f"test/dice {scores['dice']:.3f} on {told['volumes']['test']} test volumes, {told['provenance']} data")
        folder = folder_of_checkpoint(Path(str(trainer.ckpt_path))) if trainer.ckpt_path else None
        if folder is not None:
            write_volumes(folder / "volumes.csv", rows)
            print(f"scores of each volume: {folder / 'volumes.csv'}")


def scores_of(metrics: Mapping[str, Any], split: str) -> dict[str, float]:
    """The scores of one split under their names without it."""
    return {name.removeprefix(f"{split}/"): float(v) for name, v in metrics.items() if name.startswith(f"{split}/")}


def _as_text(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table of scores for a terminal."""
    cells = [["" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in line] for line in lines]
    return f"{text_table(head, cells)}\n"


def write_volumes(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the scores of each volume and mask as CSV; a score that is undefined is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(("" if math.isnan(v) else f"{v:.6f}") if isinstance(v, float) else v for v in row.values())
    write_text(file, text.getvalue())


def pictured(trainer: Trainer, module: FederatedSegmenter) -> list[tuple[Volume, Tensor]]:
    """The first evaluation volumes of each site in turn, segmented by the model that the site uses."""
    volumes = list(trainer.datamodule.val_dataloader())  # type: ignore[attr-defined]
    first: dict[str, Volume] = {}
    for volume in volumes:
        first.setdefault(volume.site, volume)
    training, sites = module.local.training, trainer.datamodule.sites  # type: ignore[attr-defined]
    module.local.eval()
    segmented = []
    for volume in list(first.values())[:PICTURED]:
        owned = module.owners() and volume.site in sites
        model = module.model_of(sites.index(volume.site)) if owned else module.local
        assert isinstance(model, VolumeSegmenter)
        segmented.append((volume, model.segment(volume)))
    module.local.train(training)
    return segmented


def write_report(
    folder: Path, record: dict[str, Any], module: FederatedSegmenter, shown: Sequence[tuple[Volume, Tensor]]
) -> Path:
    """Write the pictures and ``report.html`` of a run folder and return the page's path.

    Args:
        folder: The run folder, with its ``metrics.csv``.
        record: Content of its ``results.json``.
        module: The model, for its components.
        shown: Volumes with their predicted classes.
    """
    series = read_metrics(folder / "metrics.csv")
    data, model = record["data"], record["model"]
    split = split_of(record)
    last = {name: pairs[-1][1] for name, pairs in series.items()}
    report = Report(
        f"{model['variant']} of {model['network']}, {model['regime']}",
        f"{data['name']} · {len(data['clients'])} sites · {model['trainable']:,} numbers trained",
    )
    if f"{split}/dice" in series:
        report.headline(
            f"Dice on the {data['validated_on']} volumes after round {record['epochs']}, mean over sites",
            last[f"{split}/dice"],
            provenance=data["provenance"],
            pretrained=model["pretrained"],
            note=f"Mean over all volumes: {last[f'{split}/dice_pooled']:.3f}.",
        )
        report.section("Training", PROSE[model["regime"]])
        names = {client["site"]: f"{split}/dice/site_{client['site']}" for client in data["clients"].values()}
        drawn = {
            name: Curve([value for _, value in series[key]], x=[epoch + 1 for epoch, _ in series[key]])
            for name, key in {"mean": f"{split}/dice", **names}.items()
            if key in series
        }
        report.figure(
            save(curves(drawn, y_label="Dice"), folder / "curves.png"),
            "Dice of each site and their mean after each round.",
        )
        _tables_of_scores(report, last, split, data, list(module.local.metrics.masks))
    if shown:
        report.section("Segmentations", f"Predicted: {legend(data['class_names'][1:])}. White: the true outline.")
        for number, (volume, predicted) in enumerate(shown):
            file = save(picture(volume, predicted.numpy()), folder / f"volume_{number}.png")
            report.figure(file, f"{volume.site}, {volume.case} ({volume.provenance}).")
    report.section("What travels")
    whole = full_numbers(module.network)
    report.table(
        ["component", "numbers", "trained", "bytes per message"],
        [(c.name, c.parameters, c.trainable, 4 * c.trainable) for c in module.network.components()],
        caption=f"Components; full fine-tuning would send {whole / max(1, model['trainable']):.1f} times as much",
    )
    left_out(report, folder, {int(client): told["site"] for client, told in data["clients"].items()})
    report.section("Data")
    report.table(
        ["site", "training volumes", "windows", "slices"],
        [(c["site"], c["volumes"]["train"], c["windows"], c["slices"]) for c in data["clients"].values()],
        caption="What each site trains on",
        provenance=data["provenance"],
    )
    reproduce(report, record, **{"a message": f"{model['payload_bytes'] / 1e6:.2f} MB"})
    return report.write(folder / "report.html")


def _tables_of_scores(
    report: Report, last: Mapping[str, float], split: str, data: Mapping[str, Any], masks: Sequence[str]
) -> None:
    """Scores of the last round by site, and of sites' own models where they have any."""
    scores = scores_of(last, split)
    clients = list(data["clients"].values())
    volumes = {client["site"]: client["volumes"][data["validated_on"]] for client in clients}
    head, lines = site_table(scores, volumes, masks)
    own, of_models = model_table(scores, list(volumes), [site for site, count in volumes.items() if count])
    caption = "Scores after the last round" + (", means over the sites' own models" if of_models else "")
    report.table(head, lines, caption=caption, provenance=data["provenance"])
    report.prose(told_empty(scores, masks))
    if of_models:
        caption = "Dice of each site's own model on the volumes of each site"
        report.table(own, of_models, caption=caption, provenance=data["provenance"])
