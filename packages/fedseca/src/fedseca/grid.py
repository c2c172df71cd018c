"""The runs of a grid of rules and attacks: what ``fedseca compare`` and ``fedseca sweep`` hand to their workers.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from shared.commands import config_path, find_config
from shared.errors import RunError
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
    """One run in a worker: the last value of each test metric and the curve of the headline metric.

    A run that an attack brings to numbers that are not finite ends early: no honest upload counts any more. Its scores
    are those of the last model that could be evaluated, and ``ended`` says when and why.
    """
    from fedseca.training import LastTrainer, build
    from shared.runs import RunLogger, read_metrics

    witness = LastTrainer()
    ended = ""
    try:
        build(list(words), callbacks=[witness])
    except RunError as error:
        if witness.trainer is None or not witness.trainer.callback_metrics:
            raise
        ended = str(error)
    trainer = witness.trainer
    logger = next(logger for logger in trainer.loggers if isinstance(logger, RunLogger))
    logger.save()
    assert logger.file is not None  # fit always has a run folder
    series = read_metrics(logger.file)
    last = {name.removeprefix("test/"): pairs[-1][1] for name, pairs in series.items() if name.startswith("test/")}
    pairs = series[METRIC]
    return {
        **{name: f"{value:.6f}" for name, value in last.items()},
        "mean_of_last_5": f"{sum(value for _, value in pairs[-5:]) / len(pairs[-5:]):.6f}",
        "provenance": trainer.datamodule.provenance,
        "data": trainer.datamodule.data_name,
        "rounds": str(len(pairs)),
        "ended": ended,
        "curve": " ".join(f"{value:.4f}" for _, value in pairs),
    }
