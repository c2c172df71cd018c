"""``finelip sweep``: the paper's ablations."""

import shlex

from finelip.grid import AXES, CHECK, PAPER, WORK, cell, variants
from finelip.one_or_several import OneOrSeveral, several
from shared.commands import nearest, run_function
from shared.errors import UsageError
from shared.outputs import output_folder
from shared.sweep import run_cells


def run(words: list[str]) -> None:
    """``finelip sweep [options] [-- options of fit]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def sweep(
        axes: OneOrSeveral = list(PAPER),  # noqa: B006  read only; jsonargparse shows it as the default
        seeds: list[int] = [71, 72, 73],  # noqa: B006
        epochs: int | None = None,
        config: str = "fit",
        out: str = "runs/sweep",
        workers: int | None = None,
    ) -> None:
        """Train the config and every variant of it that differs in one thing, from every seed, and test each.

        The variants are those of the paper's ablations: how positions are stretched, the share of tokens that
        refinement keeps, the sides that are refined, the loss. Among the losses are the methods that the paper compares
        itself with: the contrastive baseline, Long-CLIP, FILIP, SPARC, LAPS, each with the score that is its own; the
        columns of the default are FineLIP (global) and FineLIP* (fused). Three more axes are there for the asking.
        Finished runs are rows of OUT/results.csv; the same command again goes on with what is missing, also after a
        kill. Options of ``finelip fit`` go behind ``--`` and hold for every run.

        Args:
            axes: What is varied, one or a list: positions, ratio, refinement, loss; length, global_tokens, score.
            seeds: Of weights and order; tables show mean and sd over seeds.
            epochs: Of each run; by default those of the config.
            config: Config to start from: a file or the name of a shipped one.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        axes, seeds = list(dict.fromkeys(several(axes))), list(dict.fromkeys(seeds))
        for option, values in (("axes", axes), ("seeds", seeds)):
            if not values:
                raise UsageError(f"--{option} must hold at least one, got []")
        for seed in seeds:
            if not 0 <= seed < 2**32:
                raise UsageError(f"--seeds must lie in 0 .. {2**32 - 1}, got {seed}")
        if epochs is not None and epochs < 1:
            raise UsageError(f"--epochs must be at least 1, got {epochs}")
        for axis in axes:
            if axis not in AXES:
                raise UsageError(f"--axes must hold some of {', '.join(AXES)}, got {axis}; {nearest(axis, list(AXES))}")
        folder = output_folder(out)
        # Seed by seed, so that an interrupted sweep has whole tables of the first seeds.
        cells = [
            cell(axis, value, seed, epochs, config, folder, extra) for seed in seeds for axis, value in variants(axes)
        ]
        rows = run_cells(cells, WORK, folder / "results.csv", workers, CHECK)
        from finelip.sweep_report import write_report

        print(write_report(rows, folder, shlex.join(["finelip", *words])))

    run_function("finelip", sweep, words[:position])
