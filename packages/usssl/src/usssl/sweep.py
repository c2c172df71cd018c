"""``usssl sweep``: which start helps, with how many labels."""

import shlex
from shutil import rmtree

from shared.commands import run_function
from shared.errors import UsageError
from shared.outputs import output_folder
from shared.sweep import run_cells
from usssl.grid import CHECK, MODES, WORK, cell, check_seeds, features_folder, named_inits


def run(words: list[str]) -> None:
    """``usssl sweep [options] [-- options of finetune]``."""
    position = words.index("--") if "--" in words else len(words)
    extra = words[position + 1 :]

    def sweep(
        inits: list[str],
        modes: list[str] = ["full", "linear"],  # noqa: B006  read only; jsonargparse shows it as the default
        fractions: list[float] = [100, 50, 25, 10, 5, 1],  # noqa: B006
        seeds: list[int] = [7, 8, 9],  # noqa: B006
        linear_epochs: int = 100,
        config: str = "finetune",
        out: str = "runs/sweep",
        workers: int | None = None,
    ) -> None:
        """Fine-tune from every start in every mode, with every share of the labels and every seed; test each.

        A linear probe is trained on features that are computed once, so without augmentation. No weights are kept.
        Finished runs are rows of
        OUT/results.csv; the same command again goes on with what is missing, also after a kill. Options of
        ``usssl finetune`` go behind ``--`` and hold for every run.

        Args:
            inits: Starts to compare, as NAME=FILE, FILE, random or imagenet.
            modes: full (all parameters) and linear (a probe on frozen features).
            fractions: Percent of the training labels.
            seeds: Each draws the labels, the head and dropout; tables show mean and sd over seeds.
            linear_epochs: Epochs of a linear probe; those of full training are the config's.
            config: Config to start from: a file or the name of a shipped one.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        starts = named_inits(inits)
        modes, fractions, seeds = (list(dict.fromkeys(values)) for values in (modes, fractions, seeds))  # type: ignore[assignment]
        for option, values in (("modes", modes), ("fractions", fractions), ("seeds", seeds)):
            if not values:
                raise UsageError(f"--{option} must hold at least one, got []")
        if linear_epochs < 1:
            raise UsageError(f"--linear_epochs must be at least 1, got {linear_epochs}")
        for mode in modes:
            if mode not in MODES:
                raise UsageError(f"--modes must hold some of {', '.join(MODES)}, got {mode}")
        for fraction in fractions:
            if not 0 < fraction <= 100:
                raise UsageError(f"--fractions must lie in (0, 100] percent, got {fraction:g}")
        check_seeds(seeds)
        folder = output_folder(out)
        # Seed by seed, so that an interrupted sweep has whole tables of the first seeds.
        cells = [
            cell(name, init, mode, fraction, seed, config, folder, extra, linear_epochs)
            for seed in seeds
            for fraction in fractions
            for mode in modes
            for name, init in starts.items()
        ]
        rows = run_cells(cells, WORK, folder / "results.csv", workers, CHECK)
        rmtree(features_folder(folder), ignore_errors=True)
        from usssl.sweep_report import write_report

        print(write_report(rows, folder, shlex.join(["usssl", *words])))

    run_function("usssl", sweep, words[:position])
