"""The page of a run: curves, recalls with their chance, what some queries found, match maps, how to run it again."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from finelip.examples import add_examples
from finelip.retrieval import whole
from shared.plots import Curve, curves, save
from shared.report import Report
from shared.runs import RunLogger, folder_of_checkpoint, read_metrics, run_folder_of
from shared.text_table import text_table

WAYS = {"i2t": "image to text", "t2i": "text to image"}
TOP = ("r1", "r5", "r10")
Series = Mapping[str, list[tuple[int, float]]]


class RunReport(Callback):
    """Says what is trained on, writes ``report.html`` after training and again after a test, prints the recalls."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            used = trainer.datamodule.describe()  # type: ignore[attr-defined]
            pairs = ", ".join(f"{count:,} {split}" for split, count in used["pairs"].items())
            print(f"pairs of {used['name']} ({used['provenance']} data): {pairs}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, run_folder_of(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking and trainer.state.fn == "validate":
            print(table_of(numbers(trainer), "val/"))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        print(table_of(numbers(trainer), "test/"))
        folder = folder_of_checkpoint(Path(str(trainer.ckpt_path))) if trainer.ckpt_path else None
        self._write(trainer, pl_module, folder)

    def _write(self, trainer: Trainer, module: Any, folder: Path | None) -> None:
        if folder is None or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.save()
        if (folder / "results.json").is_file() and (folder / "metrics.csv").is_file():
            print(f"report: {write_page(folder, module, trainer.datamodule)}")  # type: ignore[attr-defined]


def numbers(trainer: Trainer) -> dict[str, float]:
    """All scores of a trainer."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def sets_of(scores: Mapping[str, float], split: str) -> list[str]:
    """Prefixes of the evaluation sets among the names of scores: that of the run first, then further ones.

    Example:
        >>> sets_of({"test/chance/t2i_r1": 0.1, "test/coco/chance/t2i_r1": 0.1}, "test/")
        ['test/', 'test/coco/']
    """
    ending = "chance/t2i_r1"
    return sorted(name.removesuffix(ending) for name in scores if name.startswith(split) and name.endswith(ending))


def rows_of(scores: Mapping[str, float], prefix: str) -> list[tuple[str, str, list[float], float, float]]:
    """Of each score and way: its name, the way, recalls, mean and median rank; chance comes last."""
    rows = []
    kinds: Iterable[str] = dict.fromkeys(
        name.removeprefix(prefix).rsplit("/", 1)[0]
        for name in scores
        if name.startswith(prefix) and name.endswith("t2i_mean_rank")
    )
    # Names of further sets begin with that of the first.
    kinds = sorted(
        (kind for kind in kinds if re.fullmatch(r"(cut\d+/)?(global|fused)", kind)),
        key=lambda kind: (kind.startswith("cut"), kind.endswith("fused")),
    )
    for way in WAYS:
        for kind in kinds:
            name = f"{prefix}{kind}/{way}"
            recalls = [scores[f"{name}_{top}"] for top in TOP]
            rows.append((kind, way, recalls, scores[f"{name}_mean_rank"], scores[f"{name}_median_rank"]))
        chance = [scores[f"{prefix}chance/{way}_{top}"] for top in TOP]
        rows.append(("chance", way, chance, float("nan"), float("nan")))
    return rows


def told_kind(kind: str) -> str:
    """What a kind of score is called.

    Example:
        >>> [told_kind(kind) for kind in ("global", "fused", "cut77/fused", "chance")]
        ['FineLIP (global)', 'FineLIP* (fused)', 'FineLIP* (fused), cut at 77', 'chance']
    """
    names = {"global": "FineLIP (global)", "fused": "FineLIP* (fused)", "chance": "chance"}
    if kind.startswith("cut"):
        slots, _, rest = kind.removeprefix("cut").partition("/")
        return f"{names[rest]}, cut at {slots}"
    return names[kind]


def table_of(scores: Mapping[str, float], split: str) -> str:
    """Recalls of all evaluation sets, chance below them, as a terminal shows them."""
    parts = []
    for prefix in sets_of(scores, split):
        lines = [
            [
                WAYS[way],
                told_kind(kind),
                *(f"{value:.3f}" for value in recalls),
                *(("", "") if kind == "chance" else (f"{mean:.1f}", f"{median:g}")),
            ]
            for kind, way, recalls, mean, median in rows_of(scores, prefix)
        ]
        name = prefix.removeprefix(split).rstrip("/")
        parts.append(text_table([name, "score", "R@1", "R@5", "R@10", "mean rank", "median"], lines))
        parts += ratio_lines(scores, prefix)
    return "\n".join(parts)


def ratio_lines(scores: Mapping[str, float], prefix: str) -> list[str]:
    """Sentences about whole against cut captions, and HiMo."""
    lines = []
    for name, value in scores.items():
        if name.startswith(f"{prefix}cut") and name.endswith("_r1_ratio"):
            slots, kind, way = name.removeprefix(f"{prefix}cut").removesuffix("_r1_ratio").split("/")
            lines.append(
                f"R@1 {WAYS[way]}, {kind} score, whole captions over captions cut at {slots}: {value:.2f} "
                f"(95 % CI {scores[f'{name}_low']:.2f} to {scores[f'{name}_high']:.2f})"
            )
    counts = {name: scores.get(f"{prefix}{name}_captions") for name in ("himo@2", "himo@3", "himo@k")}
    lines += [
        f"HiMo@{name[-1].upper()} {scores[prefix + name]:.3f} ({count:.0f} captions)"
        for name, count in counts.items()
        if count is not None
    ]
    return lines


def curve(series: Series, name: str) -> Curve:
    """One metric over the epochs, counted from 1."""
    return Curve([value for _, value in series[name]], x=[epoch + 1 for epoch, _ in series[name]])


def write_page(folder: Path, module: Any, data: Any) -> Path:
    """Write the pictures and ``report.html`` of a run, with its test where there was one; returns the page's path."""
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    test = folder / "results_test.json"
    tested = json.loads(test.read_text(encoding="utf-8")) if test.is_file() else None
    shown, split = (tested, "test/") if tested else (record, "val/")
    told, facts, scores = shown["data"], shown["model"], shown["metrics"]
    report = Report(
        f"{facts['loss']} on {facts['backbone']}", f"{told['name']} · texts of up to {facts['context_length']} tokens"
    )
    score = f"{split}fused/t2i_r1"
    if score in scores:
        count = told["pairs"]["test" if tested else "validation"]
        report.headline(
            f"R@1 text to image, fused score, on {count} {'test' if tested else 'validation'} pairs",
            scores[score],
            provenance=told["provenance"],
            pretrained=facts["pretrained"],
            note=f"Chance is {scores[f'{split}chance/t2i_r1']:.4f}.",
        )
    for prefix in sets_of(scores, split):
        name = prefix.removeprefix(split).rstrip("/")
        report.section("Retrieval" + (f" on {name}" if name else ""), "\n\n".join(ratio_lines(scores, prefix)))
        report.table(
            ["way", "score", "R@1", "R@5", "R@10", "mean rank", "median rank"],
            [
                (
                    WAYS[way],
                    told_kind(kind),
                    *recalls,
                    *((None, None) if kind == "chance" else (whole(mean), whole(median))),
                )
                for kind, way, recalls, mean, median in rows_of(scores, prefix)
            ],
            caption=f"Recall at k and ranks from 1, {'test' if tested else 'validation'}",
            provenance=told["provenance"],
        )
    series = read_metrics(folder / "metrics.csv")
    report.section("Training")
    for names, file, caption in (
        ({"train/loss": "training"}, "loss.png", "Loss after each epoch."),
        (
            {f"val/{kind}/{way}_r1": f"{kind}, {WAYS[way]}" for kind in ("global", "fused") for way in WAYS},
            "recall.png",
            "R@1 on the validation pairs.",
        ),
        ({"lr": "backbone", "lr_refinement": "token refinement"}, "lr.png", "Learning rates at the end of each epoch."),
    ):
        drawn = {label: curve(series, name) for name, label in names.items() if name in series}
        if drawn:
            report.figure(save(curves(drawn, x_label="epoch"), folder / file), caption)
    add_examples(report, folder, module.model, data, "test" if tested else "validation")
    report.section("Data").facts(
        {
            name.replace("_", " "): json.dumps(value) if isinstance(value, dict) else value
            for name, value in told.items()
        }
    )
    report.section("Model").facts({name.replace("_", " "): value for name, value in facts.items()})
    report.reproduce(
        record["command"],
        versions=record["versions"],
        seconds=record["wall_seconds"],
        seed=record["seed"],
        device=record["device"],
        **({"test": tested["command"]} if tested else {}),
    )
    return report.write(folder / "report.html")
