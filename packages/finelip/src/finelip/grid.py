"""The runs of ``finelip sweep``: one option changed at a time, over seeds.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree

from finelip import __version__
from shared.commands import config_chain, config_path, named_configs
from shared.sweep import Cell, fingerprint

WORK = "finelip.grid:train"
CHECK = "finelip.grid:check"
DEFAULT = "default"

PAPER = ("positions", "ratio", "refinement", "loss")
"""The axes that the paper varies."""

AXES: dict[str, dict[str, tuple[str, ...]]] = {
    "positions": {by: (f"--model.stretch_by={by}",) for by in ("linear", "random", "none")},
    "ratio": {share: (f"--model.aggr_ratio={share}",) for share in ("0.1", "0.3", "0.4", "0.5")},
    "refinement": {
        name: (f"--model.refinement={name}",)
        for name in (
            *("image", "text", "none"),
            *("select_aggregate_image", "aggregate_select_image", "select_aggregate_both"),
        )
    },
    "loss": {
        "hardest": ("--model.loss.hardest=true",),
        "local_info_nce": ("--model.loss=finelip.losses.LocalInfoNCE",),
        "contrastive": ("--config=baseline_contrastive",),
        **{name: (f"--config={name}",) for name in ("long_clip", "filip", "sparc", "laps")},
    },
    "length": {"keep_10": ("--model.keep=10",), "ratio_8": ("--model.ratio=8",)},
    "global_tokens": {side: (f"--model.global_tokens={side}",) for side in ("none", "image", "text")},
    "score": {
        **{way: (f"--model.direction={way}",) for way in ("t2i", "i2t")},
        "slope_1": ("--model.slope=1.0",),
        "sum": ("--model.reduction=sum",),
    },
}
"""Axis to value to the options that make it; everything else stays the config's.

The paper's ablations first. ``--config`` adds a shipped config, as for the methods that FineLIP is compared with, which
differ in more than their loss.
"""

SCORES = ("global/t2i_r1", "global/i2t_r1", "fused/t2i_r1", "fused/i2t_r1", "cut77/fused/t2i_r1", "chance/t2i_r1")


def variants(axes: Sequence[str]) -> list[tuple[str, str]]:
    """Axis and value of each variant, the config itself first.

    Example:
        >>> variants(["positions"])
        [('', 'default'), ('positions', 'linear'), ('positions', 'random'), ('positions', 'none')]
    """
    return [("", DEFAULT), *((axis, value) for axis in axes for value in AXES[axis])]


def cell(axis: str, value: str, seed: int, epochs: int | None, config: str, out: Path, extra: Sequence[str]) -> Cell:
    """One run: a variant trained from one seed."""
    own = AXES[axis][value] if axis else ()
    given, flags = named_configs("finelip", extra)
    options = [
        *(("--trainer.max_epochs", str(epochs)) if epochs is not None else ()),
        *("--seed_everything", str(seed)),
        *own,
        *flags,
    ]
    added = [word.removeprefix("--config=") for word in own if word.startswith("--config=")]
    added_configs = [path for name in added for path in config_chain("finelip", name)]
    configs = [config_path("finelip", "fit"), *config_chain("finelip", config), *given, *added_configs]
    name = "-".join(filter(None, (axis, value, str(seed))))
    # The configs of all runs in front of the variant's, which wins.
    where = ["--config", config, *(f"--config={path}" for path in given)]
    where += ["--run.root", str(out / "cells"), "--run.name", name]
    # Only the test after the last epoch is asked for, and nobody goes on from it.
    quiet = [
        "--trainer.enable_progress_bar",
        "false",
        "--checkpoint.save_top_k",
        "0",
        "--trainer.limit_val_batches",
        "0",
    ]
    return Cell(
        key={"axis": axis or "-", "value": value, "seed": str(seed)},
        words=("fit", *where, *options, *quiet),
        fingerprint=fingerprint(options, configs, f"{__version__} {version('medley-shared')}"),
    )


def check(words: Sequence[str]) -> None:
    """Read the options of one run and run nothing.

    Raises:
        UsageError: One of them is wrong.
    """
    from finelip.training import build

    build(list(words), parse_only=True)


def train(words: Sequence[str]) -> dict[str, str]:
    """One run in a worker, and its test: recalls, and what the data are. Its weights are not kept."""
    from finelip.training import build

    cli = build(list(words))
    trainer, data = cli.trainer, cli.datamodule
    trainer.test(cli.model, datamodule=data, verbose=False)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if cli.folder is not None:
        rmtree(cli.folder / "checkpoints", ignore_errors=True)
    told = data.describe()
    return {
        **{name: f"{scores[f'test/{name}']:.6f}" for name in SCORES if f"test/{name}" in scores},
        "epochs": str(trainer.max_epochs),
        "test_pairs": str(told["pairs"]["test"]),
        "data": told["name"],
        "provenance": told["provenance"],
        "pretrained": cli.model.pretrained,
    }
