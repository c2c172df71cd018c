"""The runs of a grid of rules and attacks: what ``fedseca compare`` and ``fedseca sweep`` hand to their workers.

Imports nothing heavy at the top: the parent process of a sweep only hands out work and draws.
"""

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from shared.commands import config_chain, config_path, named_configs
from shared.errors import RunError, UsageError
from shared.sweep import Cell, fingerprint

T = TypeVar("T")
METRIC = "test/macro_f1"
WORK = "fedseca.grid:train"
CHECK = "fedseca.grid:check"
FLAGS = {"rules": "--model.aggregator", "attacks": "--model.attack", "partitions": "--data.partition"}
"""What an entry of each list stands for on the command line of ``fedseca fit``."""


def entry_options(name: str, entry: str) -> list[str]:
    """The options of ``fedseca fit`` that an entry stands for: ``CLASS`` or ``CLASS:OPTION=VALUE,OPTION=VALUE``.

    Args:
        name: The list that the entry is in, one of :data:`FLAGS`.
        entry: The entry; a comma in a value is no end of it unless a name and ``=`` follow.

    Raises:
        UsageError: The entry has neither form.

    Example:
        >>> entry_options("rules", "FedSECA:beta=0,gamma=0.5")
        ['--model.aggregator', 'FedSECA', '--model.aggregator.beta=0', '--model.aggregator.gamma=0.5']
    """
    kind, colon, settings = entry.partition(":")
    options = re.split(r",(?=[\w.]+=)", settings) if colon else []
    if not re.fullmatch(r"[\w.]+", kind) or not all(re.fullmatch(r"[\w.]+=.+", option) for option in options):
        raise UsageError(
            f"{name} must hold CLASS or CLASS:OPTION=VALUE, several options joined by commas and then in quotes, "
            f"got {entry!r}"
        )
    return [FLAGS[name], kind, *(f"{FLAGS[name]}.{option}" for option in options)]


def different(name: str, values: Iterable[T]) -> list[T]:
    """The values of an option in their order, each once.

    Raises:
        UsageError: There is none.
    """
    once = list(dict.fromkeys(values))
    if not once:
        raise UsageError(f"{name} must hold at least one, got []")
    return once


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
    """One run of a grid; rule, attack and partition as in :func:`entry_options`.

    The partition ``None`` leaves it to the config.
    """
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    options = [
        *entry_options("rules", rule),
        *entry_options("attacks", attack),
        *("--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_epochs", str(rounds)),
        *extra,
    ]
    name = f"{rule}-{attack}-{seed}"
    key = {"rule": rule, "attack": attack, "seed": str(seed)}
    if partition is not None:
        options += entry_options("partitions", partition)
        name += f"-{partition}"
        key = {"partition": partition, **key}
    given, _ = named_configs("fedseca", extra)
    configs = [config_path("fedseca", "fit"), *config_chain("fedseca", config), *given]
    where = [
        "--config",
        config,
        "--run.root",
        str(out / "cells"),
        "--run.name",
        re.sub(r"[^\w.=,-]+", "-", name),
    ]
    quiet = ["--trainer.enable_progress_bar", "false", "--checkpoint.every_n_epochs", str(rounds)]
    return Cell(
        key=key,
        words=("fit", *where, *options, *quiet),
        fingerprint=fingerprint(options, configs, f"{version('fedseca')} {version('medley-shared')}"),
    )


def check(words: Sequence[str]) -> None:
    """Read the options of one run and run nothing.

    Raises:
        UsageError: One of them is wrong.
    """
    from fedseca.training import build

    build(words, callbacks=[], parse_only=True)


def train(words: Sequence[str]) -> dict[str, str]:
    """One run in a worker: the last value of each test metric, the curve of the headline metric, and what it cost.

    Costs are means over rounds: seconds from the last client's result to the new global model, bytes that all clients
    together sent and received. ``peak_resident_mb`` is the most memory that the worker held during the run, libraries
    included; empty where the system does not tell.

    A run that an attack brings to numbers that are not finite ends early: no honest upload counts any more. Its scores
    are those of the last model that could be evaluated, and ``ended`` says when and why.
    """
    from fedseca.training import LastTrainer, build
    from shared.measurement import can_measure_peak, reset_resident_peak, resident_peak
    from shared.runs import RunLogger, read_metrics

    measured = can_measure_peak()
    if measured:
        reset_resident_peak()
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

    def per_round(name: str, digits: int) -> str:
        values = [value for _, value in series.get(name, [])]
        return f"{sum(values) / len(values):.{digits}f}" if values else ""

    return {
        **{name: f"{value:.6f}" for name, value in last.items()},
        "mean_of_last_5": f"{sum(value for _, value in pairs[-5:]) / len(pairs[-5:]):.6f}",
        "server_seconds_per_round": per_round("round/server_seconds", 6),
        "bytes_up_per_round": per_round("round/bytes_up", 0),
        "bytes_down_per_round": per_round("round/bytes_down", 0),
        "peak_resident_mb": f"{resident_peak() / 1e6:.0f}" if measured else "",
        "provenance": trainer.datamodule.provenance,
        "data": trainer.datamodule.data_name,
        "rounds": str(len(pairs)),
        "ended": ended,
        "curve": " ".join(f"{value:.4f}" for _, value in pairs),
    }
