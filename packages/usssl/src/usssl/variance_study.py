"""``usssl study variance``: more frames, or more different ones?

Imports nothing heavy at the top: the parent process only hands out work and draws.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from shared.commands import config_chain, config_path
from shared.errors import UsageError
from shared.outputs import output_folder
from shared.sweep import Cell, fingerprint, run_cells
from usssl import __version__
from usssl.grid import WORDS, check_seeds, sha256

WORK = "usssl.variance_cell:train"
CHECK = "usssl.variance_cell:check"
AXES = ("size", "variance")


def cell(axis: str, level: float, seed: int, common: dict[str, Any]) -> Cell:
    """One pretraining on one choice of frames, and a classifier from its weights.

    Args:
        axis: ``size``: all videos, every LEVEL-th frame; ``variance``: LEVEL percent of the patients or videos.
        level: See above.
        seed: Of the choice, the weights and the labels.
        common: What is the same for all cells.
    """
    spec = {"axis": axis, "level": level, "seed": seed} | common
    chosen = [common["config"], common["finetune_config"]]
    configs = [path for config in chosen for path in config_chain("usssl", config)]
    configs += [config_path("usssl", name) for name in ("pretrain", "finetune")]
    told = {name: value for name, value in spec.items() if name not in ("out", "config", "finetune_config")}
    if common["network"] not in WORDS:
        told["network"] = sha256(common["network"])
    return Cell(
        key={"axis": axis, "level": f"{level:g}", "seed": str(seed)},
        words=(json.dumps(spec),),
        fingerprint=fingerprint([json.dumps(told)], configs, f"{__version__} {version('medley-shared')}"),
    )


def variance(words: Sequence[str], extra: Sequence[str]) -> Callable[..., None]:
    """The study with the options of ``pretrain`` that came behind ``--``."""

    def study(
        axes: list[str] = ["size", "variance"],  # noqa: B006  read only; jsonargparse shows it as the default
        skips: list[int] = [1, 2, 5, 10, 25],  # noqa: B006
        shares: list[float] = [5, 10, 25, 50, 100],  # noqa: B006
        of: Literal["patient", "video"] = "patient",
        frames: int | None = None,
        epoch_frames: int = 640,
        seeds: list[int] = [7, 8, 9],  # noqa: B006
        network: str = "random",
        config: str = "pretrain",
        finetune_config: str = "finetune",
        finetune: str = "",
        out: str = "runs/variance",
        workers: int | None = None,
    ) -> None:
        """Pretrain on more or fewer frames of all videos, and on equally many frames of more or fewer patients.

        Every pretraining takes equally many steps. From each a classifier is trained and tested. The choice of patients
        and of frames follows the seed. Finished runs are rows of OUT/results.csv; the same command again goes on with
        what is missing, also after a kill. Options of `usssl pretrain` go behind `--` and hold for every run. The table
        also says how much the chosen frames differ: the trace of the covariance and the mean cosine distance of their
        features in one fixed network.

        Args:
            axes: size (all videos, every SKIP-th frame) and variance (equally many frames of SHARE percent).
            skips: Levels of the first axis.
            shares: Levels of the second, percent.
            of: Of what: patients or videos.
            frames: Frames of every run of the second axis; by default all frames of the smallest share.
            epoch_frames: Frames of an epoch, the same number for all runs.
            seeds: Tables show mean and sd over them.
            network: Weights of the fixed network: a file, imagenet, or random (ResNet-18, seed 0).
            config: Config to pretrain from: a file or the name of a shipped one.
            finetune_config: Config to train the classifier from.
            finetune: Options of `usssl finetune`, as one string.
            out: Folder of the results.
            workers: Processes that train at the same time; by default one per core.
        """
        axes, skips, shares, seeds = (list(dict.fromkeys(v)) for v in (axes, skips, shares, seeds))  # type: ignore[assignment]
        for option, values in (("axes", axes), ("skips", skips), ("shares", shares), ("seeds", seeds)):
            if not values:
                raise UsageError(f"--{option} must hold at least one, got []")
        for axis in axes:
            if axis not in AXES:
                raise UsageError(f"--axes must hold some of {', '.join(AXES)}, got {axis}")
        for share in shares:
            if not 0 < share <= 100:
                raise UsageError(f"--shares must lie in (0, 100] percent, got {share:g}")
        for skip in skips:
            if skip < 1:
                raise UsageError(f"--skips must be at least 1, got {skip}")
        if frames is not None and frames < 2:
            raise UsageError(f"--frames must be at least 2, whose features can differ, got {frames}")
        if epoch_frames < 1:
            raise UsageError(f"--epoch_frames must be at least 1, got {epoch_frames}")
        check_seeds(seeds)
        try:
            classifier = shlex.split(finetune)
        except ValueError as error:
            raise UsageError(f"--finetune must be options as a shell reads them, got {finetune} ({error})") from error
        if network not in WORDS and not Path(network).expanduser().is_file():
            raise UsageError(f"--network must be an existing file, imagenet or random, got {network}")
        folder = output_folder(out)
        common = {
            "of": of,
            "frames": frames,
            "least_share": min(shares),
            "epoch_frames": epoch_frames,
            "network": network if network in WORDS else str(Path(network).expanduser().resolve()),
            "config": config,
            "finetune_config": finetune_config,
            "pretrain": list(extra),
            "finetune": classifier,
            "out": str(folder),
        }
        levels = [("size", skip) for skip in skips] + [("variance", share) for share in shares]
        # Seed by seed, so that an interrupted study has whole tables of the first seeds.
        cells = [cell(axis, level, seed, common) for seed in seeds for axis, level in levels if axis in axes]
        rows = run_cells(cells, WORK, folder / "results.csv", workers, CHECK)
        from usssl.variance_report import write_report

        print(write_report(rows, folder, shlex.join(["usssl", *words])))

    return study
