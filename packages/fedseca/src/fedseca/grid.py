"""The runs of a grid of rules and attacks: what ``fedseca compare`` and ``fedseca sweep`` hand to their workers.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.commands import config_path, find_config
from shared.sweep import Cell, fingerprint

METRIC = "test/macro_f1"
WORK = "fedseca.grid:train"


def cell(
    rule: str,
    attack: str,
    seed: int,
    rounds: int,
    config: str,
    out: Path,
    extra: Sequence[str],
    partition: str | None = None,
) -> Cell:
    """One run of a grid; ``partition`` is ``CLASS`` or ``CLASS:OPTION=VALUE``, and ``None`` leaves it to the config."""
    options = [
        *("--model.aggregator", rule, "--model.attack", attack),
        *("--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_epochs", str(rounds)),
        *extra,
    ]
    name = f"{rule}-{attack}-{seed}"
    key = {"rule": rule, "attack": attack, "seed": str(seed)}
    if partition is not None:
        kind, _, setting = partition.partition(":")
        options += ["--data.partition", kind]
        if setting:
            options.append(f"--data.partition.{setting}")
        name += "-" + partition.replace(":", "-")
        key = {"partition": partition, **key}
    configs = [config_path("fedseca", "fit"), find_config("fedseca", config)]
    where = ["--config", str(configs[1]), "--run.root", str(out / "cells"), "--run.name", name]
    quiet = ["--trainer.enable_progress_bar", "false", "--checkpoint.every_n_epochs", str(rounds)]
    return Cell(
        key=key,
        words=("fit", *where, *options, *quiet),
        fingerprint=fingerprint(options, configs, f"{version('fedseca')} {version('medley-shared')}"),
    )


def train(words: Sequence[str]) -> dict[str, str]:
    """One run in a worker: the last value of each test metric and the curve of the headline metric."""
    from fedseca.training import build
    from shared.runs import read_metrics

    cli = build(list(words), callbacks=[])
    assert cli.folder is not None  # fit always has one
    series = read_metrics(cli.folder / "metrics.csv")
    last: dict[str, Any] = {
        name.removeprefix("test/"): pairs[-1][1] for name, pairs in series.items() if "test/" in name
    }
    pairs = series[METRIC]
    return {
        **{name: f"{value:.6f}" for name, value in last.items()},
        "mean_of_last_5": f"{sum(value for _, value in pairs[-5:]) / len(pairs[-5:]):.6f}",
        "provenance": cli.datamodule.provenance,
        "data": cli.datamodule.data_name,
        "rounds": str(len(pairs)),
        "curve": " ".join(f"{value:.4f}" for _, value in pairs),
    }
