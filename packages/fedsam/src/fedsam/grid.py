"""The runs of ``fedsam sweep``: variants by regimes, over seeds.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from fedsam import __version__
from shared.commands import config_chain, config_path, named_configs, nearest
from shared.errors import UsageError
from shared.sweep import Cell, fingerprint

T = TypeVar("T")
WORK = "fedsam.grid:train"
CHECK = "fedsam.grid:check"
REGIMES = ("federated", "local", "centralised")


def different(name: str, values: Iterable[T], known: Sequence[str] = ()) -> list[T]:
    """The values of an option in their order, each once.

    Raises:
        UsageError: There is none, or one is not known.

    Example:
        >>> different("seeds", [1, 2, 1])
        [1, 2]
    """
    once = list(dict.fromkeys(values))
    if not once:
        raise UsageError(f"{name} must hold at least one, got []")
    for value in once:
        if known and value not in known:
            raise UsageError(f"{name} must hold some of {', '.join(known)}, got {value}; {nearest(str(value), known)}")
    return once


def cell(variant: str, regime: str, seed: int, rounds: int, config: str, out: Path, extra: Sequence[str]) -> Cell:
    """One run: a variant trained in one regime from one seed.

    Raises:
        UsageError: There are no rounds.
    """
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    options = [
        *("--model.variant", variant, "--model.regime", regime, "--seed_everything", str(seed)),
        *("--data.seed", str(seed), "--trainer.max_epochs", str(rounds)),
        *extra,
    ]
    configs = [config_path("fedsam", "fit"), *config_chain("fedsam", config), *named_configs("fedsam", extra)[0]]
    where = ["--config", config, "--run.root", str(out / "cells"), "--run.name", f"{variant}-{regime}-{seed}"]
    quiet = ["--trainer.enable_progress_bar", "false"]
    # Only the scores after the last round are asked for; whole volumes take long to score.
    quiet += ["--checkpoint.every_n_epochs", str(rounds), "--trainer.check_val_every_n_epoch", str(rounds)]
    return Cell(
        key={"variant": variant, "regime": regime, "seed": str(seed)},
        words=("fit", *where, *options, *quiet),
        fingerprint=fingerprint(options, configs, f"{__version__} {version('medley-shared')}"),
    )


def check(words: Sequence[str]) -> None:
    """Read the options of one run and run nothing.

    Raises:
        UsageError: One of them is wrong.
    """
    from fedsam.training import build

    build(words, callbacks=[], parse_only=True)


def train(words: Sequence[str]) -> dict[str, str]:
    """One run in a worker, and its test: test scores, a message's and the run's bytes, and what the data are.

    ``scores`` holds the test metrics as JSON, since their names depend on sites and classes.
    """
    from fedsam.training import LastTrainer, build

    witness = LastTrainer()
    cli = build(list(words), callbacks=[witness])
    trainer = witness.trainer
    told = cli.model.describe()
    kept = trainer.checkpoint_callback.best_model_path or trainer.checkpoint_callback.last_model_path  # type: ignore[union-attr]
    trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=kept, weights_only=True, verbose=False)
    scores = {
        name.removeprefix("test/"): round(float(value), 6)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
    federated = told["regime"] == "federated"
    return {
        "dice": f"{scores['dice']:.6f}",
        "scores": json.dumps(scores),
        "sites": json.dumps(cli.datamodule.sites),
        "classes": json.dumps(cli.datamodule.class_names[1:]),
        "trainable": str(told["trainable"]),
        "message_bytes": str(told["payload_bytes"]) if federated else "0",
        "run_bytes": str(told["bytes"]["up"] + told["bytes"]["down"]) if federated else "0",
        "pretrained": told["pretrained"],
        "network": f"{told['network']} at {told['image_size']}",
        "provenance": cli.datamodule.provenance,
        "data": cli.datamodule.data_name,
    }
