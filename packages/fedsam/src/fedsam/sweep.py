"""``fedsam sweep``: the paper's comparison, variants by regimes over seeds."""

import shlex
from pathlib import Path

from fedsam.grid import CHECK, REGIMES, WORK, cell, different
from shared.commands import run_function
from shared.sweep import run_cells

VARIANTS = ["full", "attn", "decoder", "partial_decoder", "lora", "lora_decoder", "flap"]
"""The rows of the paper's comparison."""
KNOWN = [*VARIANTS, "attn_paper", "masam", "samed"]


def run(words: list[str]) -> None:
    """``fedsam sweep [options] [-- options of fit]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def sweep(
        variants: list[str] = VARIANTS,
        regimes: list[str] = ["federated", "local"],  # noqa: B006  read only; jsonargparse shows it as the default
        seeds: list[int] = [73],  # noqa: B006
        rounds: int = 12,
        config: str = "fit",
        out: str = "runs/sweep",
        workers: int | None = None,
    ) -> None:
        """Train every variant in every regime and seed, test each, and write tables, picture and report.

        The table has Dice per class and site on the test volumes, their mean, what the sites gain by training together
        (where federated and local are both among the regimes), and bytes per message and run. Finished runs are rows of
        OUT/results.csv; the same command again goes on with what is missing, also after a kill. Options of
        ``fedsam fit`` go behind ``--`` and hold for every run.

        Args:
            variants: What is trained and sent; see the option model.variant of fit.
            regimes: federated (all sites together), local (every site alone), centralised (all windows in one place).
            seeds: Each is the seed of a run; tables show mean and sd over seeds.
            rounds: Rounds of each run.
            config: Config to start from: a file or the name of a shipped one.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        folder = Path(out)
        variants = different("variants", variants, KNOWN)
        regimes = different("regimes", regimes, REGIMES)
        seeds = different("seeds", seeds)
        # Seed by seed, so that an interrupted sweep has whole tables of the first seeds.
        cells = [
            cell(variant, regime, seed, rounds, config, folder, extra)
            for seed in seeds
            for variant in variants
            for regime in regimes
        ]
        rows = run_cells(cells, WORK, folder / "results.csv", workers, CHECK)
        from fedsam.sweep_report import write_report

        print(write_report(rows, variants, regimes, rounds, folder, shlex.join(["fedsam", *words])))

    run_function("fedsam", sweep, words[:position])
