"""``fedseca compare``: rules against attacks, one table and one picture."""

from collections.abc import Sequence
from pathlib import Path

from fedseca.grid import CHECK, WORK, cell, different
from shared.commands import run_function
from shared.sweep import Row, run_cells


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
            rules: Server rules: CLASS or CLASS:OPTION=VALUE, several options joined by commas.
            attacks: Attacks of the hostile clients, likewise; NoAttack is an honest federation.
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
    rules, attacks, seeds = different("rules", rules), different("attacks", attacks), different("seeds", seeds)
    cells = [
        cell(rule, attack, seed, rounds, config, out, extra) for rule in rules for attack in attacks for seed in seeds
    ]
    rows = run_cells(cells, WORK, out / "results.csv", workers, CHECK)
    from fedseca.compare_report import write_report

    print(write_report(rows, rules, attacks, rounds, out))
    return rows
