"""Options of Lightning's trainer and checkpoints: which are refused before a run, and what Lightning refuses itself."""

import re
import traceback
from collections.abc import Iterable
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry

from shared.checkpoints import first_line
from shared.commands import nearest
from shared.errors import UsageError

MOST_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""


def check_trainer_options(chosen: Namespace, trains: bool) -> None:
    """Refuse options that Lightning would take and that make no run here.

    Args:
        chosen: All options of a verb, parsed.
        trains: Whether the verb trains.

    Raises:
        UsageError: One of ``trainer``, ``checkpoint`` or ``seed_everything`` is out of range, or not for this machine.
    """
    trainer, checkpoint, seed = chosen.trainer, chosen.checkpoint, chosen.get("seed_everything")
    if not isinstance(seed, bool) and isinstance(seed, int) and not 0 <= seed <= MOST_SEED:
        raise UsageError(f"--seed_everything must lie in 0 .. {MOST_SEED}, got {seed}")
    if str(trainer.precision) in ("64", "64-true"):
        raise UsageError(
            f"--trainer.precision must be one for float32 images, such as 32-true or bf16-mixed, "
            f"got {trainer.precision}"
        )
    every = trainer.check_val_every_n_epoch
    if every is not None and every < 1:
        raise UsageError(f"--trainer.check_val_every_n_epoch must be at least 1 or null, got {every}")
    if trainer.limit_train_batches == 0 and trains:
        raise UsageError(f"--trainer.limit_train_batches must be above 0, got {trainer.limit_train_batches}")
    if trainer.max_epochs is not None and trainer.max_epochs < -1:
        raise UsageError(f"--trainer.max_epochs must be at least -1, for no end, got {trainer.max_epochs}")
    check_accelerator(trainer.accelerator)
    if checkpoint.dirpath is not None:
        raise UsageError(f"--checkpoint.dirpath must be null, for the run folder has them, got {checkpoint.dirpath}")
    if "/" in (checkpoint.filename or ""):
        raise UsageError(f"--checkpoint.filename must be a name without folders, got {checkpoint.filename}")


def check_accelerator(name: object) -> None:
    """Refuse an accelerator that this machine does not have.

    Raises:
        UsageError: It is unknown or not here.
    """
    here = [known for known in AcceleratorRegistry if AcceleratorRegistry[known]["accelerator"].is_available()]
    if "cuda" in here or "mps" in here:
        here.append("gpu")
    if isinstance(name, str) and name not in ("auto", *here):
        raise UsageError(f"--trainer.accelerator must be auto or {' or '.join(here)} on this machine, got {name}")


def refused_by_lightning(error: Exception) -> bool:
    """Whether Lightning itself raised an error, about options that it looks at only when it builds or runs."""
    if isinstance(error, RuntimeError):
        return "conditioned on metric" in str(error)  # early stopping on what nobody logs
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return innermost[0].f_globals["__name__"].startswith("lightning.")


def lightnings_refusal(error: Exception, chosen: Namespace, metrics: Iterable[str]) -> str:
    """What Lightning refused, behind the option of the trainer or of checkpoints that it names.

    Args:
        error: See :func:`refused_by_lightning`.
        chosen: All options of the verb.
        metrics: Names of what was logged so far.
    """
    text = first_line(error).strip()
    if metric := re.search(r"(?:ModelCheckpoint\(monitor=|conditioned on metric )['`](.+?)['`]", text):
        logged = [name for name in metrics if name.startswith(("train/", "val/"))]
        option = "--checkpoint.monitor" if metric[1] == chosen.checkpoint.monitor else "--trainer.callbacks: monitor"
        return f"{option} must name a metric that is logged, got {metric[1]}; {nearest(metric[1], logged)}"
    places: list[tuple[int, str, Any]] = [
        (found.start(), f"--{group}.{name}", value)
        for group in ("trainer", "checkpoint")
        for name, value in chosen[group].items()
        if (found := re.search(rf"\b{name}\b|'{re.escape(str(value))}'", text))
    ]
    if not places:
        return f"--trainer cannot be built: {text}"
    _, option, value = min(places)
    return f"{option} cannot be {value}: {text}"
