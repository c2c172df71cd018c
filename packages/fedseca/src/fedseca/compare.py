"""``fedseca compare``: rules against attacks, one table and one picture.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.commands import config_path, find_config, run_function
from shared.sweep import Cell, Row, fingerprint, run_cells

METRIC = "test/macro_f1"


def run(words: list[str]) -> None:
    """``fedseca compare [options] [-- options of fit]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def compare(
        rules: list[str] = ["FedAvg", "FedSECA"],  # noqa: B006  read only; jsonargparse shows it as the default
        attacks: list[str] = ["NoAttack", "ALIE", "IPM", "SignFlip"],  # noqa: B006
        seeds: list[int] = [73],  # noqa: B006
        rounds: int = 25,
        config: str = "fit",
        out: str = "runs/compare",
        workers: int | None = None,
    ) -> None:
        """Train under every rule and every attack, and put the results into one table and one picture.

        Finished runs are rows of OUT/results.csv; the same command again goes on with what is missing. Options of
        ``fedseca fit`` go behind ``--`` and hold for every run.

        Args:
            rules: Server rules, by class name.
            attacks: Attacks of the hostile clients, by class name; NoAttack is an honest federation.
            seeds: Each is the seed of the run and of the partition; the table shows the mean over seeds.
            rounds: Rounds of each run.
            config: Config to start from: a file or the name of a shipped one.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        compare_rules(rules, attacks, seeds, rounds, config, Path(out), workers, extra)

    run_function("fedseca", compare, words[:position])


def compare_rules(
    rules: Sequence[str],
    attacks: Sequence[str],
    seeds: Sequence[int],
    rounds: int,
    config: str,
    out: Path,
    workers: int | None,
    extra: Sequence[str] = (),
) -> list[Row]:
    """Run the grid and write ``results.csv``, ``table.md``, ``curves.png`` and ``report.html`` into ``out``."""
    cells = [
        cell(rule, attack, seed, rounds, config, out, extra) for rule in rules for attack in attacks for seed in seeds
    ]
    rows = run_cells(cells, "fedseca.compare:train", out / "results.csv", workers)
    from fedseca.compare_report import write_report

    print(write_report(rows, rules, attacks, rounds, out))
    return rows


def cell(rule: str, attack: str, seed: int, rounds: int, config: str, out: Path, extra: Sequence[str]) -> Cell:
    """One run of the grid."""
    options = [
        *("--model.aggregator", rule, "--model.attack", attack),
        *("--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_epochs", str(rounds)),
        *extra,
    ]
    configs = [config_path("fedseca", "fit"), find_config("fedseca", config)]
    where = ["--config", str(configs[1]), "--run.root", str(out / "cells"), "--run.name", f"{rule}-{attack}-{seed}"]
    quiet = ["--trainer.enable_progress_bar", "false", "--checkpoint.every_n_epochs", str(rounds)]
    return Cell(
        key={"rule": rule, "attack": attack, "seed": str(seed)},
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
