"""``fedseca sweep``: the whole battle, every rule against every attack, over partitions and seeds."""

import shlex
from pathlib import Path

from fedseca.grid import CHECK, WORK, cell, different
from shared.commands import run_function
from shared.sweep import run_cells

RULES = [
    *("FedAvg", "FedSECA", "Krum", "TrimmedMean", "RFA", "HuberMean", "CenteredClipping", "RandomBucketClipping"),
    *("SequentialBucketClipping", "DOS", "FLDetector", "FedNGA", "TIES"),
]
"""The thirteen of the paper's configs."""
ATTACKS = ["NoAttack", "LabelFlip", "Scale", "ALIE", "IPM", "Fang", "Mimic", "MinMaxSumReleased", "SignFlip"]
"""No attack, the paper's seven, and the reversed upload."""


def run(words: list[str]) -> None:
    """``fedseca sweep [options] [-- options of fit]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def sweep(
        rules: list[str] = RULES,
        attacks: list[str] = ATTACKS,
        partitions: list[str] = ["Dirichlet:alpha=1.0"],  # noqa: B006  read only; jsonargparse shows it as the default
        seeds: list[int] = [73, 74, 75],  # noqa: B006
        rounds: int = 25,
        config: str = "fit",
        out: str = "runs/sweep",
        workers: int | None = None,
    ) -> None:
        """Train under every rule, attack, partition and seed, and write table, heat map and report.

        Finished runs are rows of OUT/results.csv; the same command again goes on with what is missing, also after a
        kill. Options of ``fedseca fit`` go behind ``--`` and hold for every run. Rules, attacks and partitions are
        class names, or with options CLASS:OPTION=VALUE, several joined by commas: "FedSECA:beta=0,gamma=0.8".

        Args:
            rules: Server rules.
            attacks: Attacks of the hostile clients; NoAttack is an honest federation.
            partitions: How images are divided among clients.
            seeds: Each is the seed of the run and of the partition; tables show mean and sd over seeds.
            rounds: Rounds of each run.
            config: Config to start from: a file or the name of a shipped one.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        folder = Path(out)
        rules, attacks, seeds = different("rules", rules), different("attacks", attacks), different("seeds", seeds)
        partitions = different("partitions", partitions)
        # Seed by seed, so that an interrupted sweep has whole tables of the first seeds.
        cells = [
            cell(rule, attack, seed, rounds, config, folder, extra, partition)
            for seed in seeds
            for partition in partitions
            for rule in rules
            for attack in attacks
        ]
        rows = run_cells(cells, WORK, folder / "results.csv", workers, CHECK)
        from fedseca.sweep_report import write_report

        print(write_report(rows, rules, attacks, partitions, rounds, folder, shlex.join(["fedseca", *words])))

    run_function("fedseca", sweep, words[:position])
