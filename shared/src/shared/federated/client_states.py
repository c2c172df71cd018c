"""What a client remembers between rounds, in one safetensors file per client and round."""

import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from shared.checkpoints import save_tensors
from shared.errors import RunError, UsageError
from shared.schedules import CountsEpochs

KEPT = 3
FILE = re.compile(r"round=(\d+)\.safetensors")


class States(Protocol):
    """Where clients' states are kept between rounds."""

    def load(self, client: int, round: int) -> dict[str, Tensor]:
        """The state that a client had after ``round``."""

    def save(self, client: int, round: int, state: dict[str, Tensor]) -> None:
        """Store a client's state after ``round``."""


class ClientStates:
    """Keeps the newest three states of each client.

    A run that dies between the clients' work and the checkpoint leaves states one round ahead of the newest
    checkpoint; with three, each of the last two checkpoints can still be resumed. States of later rounds than the one
    that is saved belong to a past that was given up, or to another run in the same folder, and are removed.

    Args:
        folder: Where the files go, ``client=ID/round=N.safetensors``; ``None`` keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[int, dict[int, dict[str, Tensor]]] = {}

    def _path(self, client: int, round: int) -> Path:
        assert self.folder is not None
        return self.folder / f"client={client:04d}" / f"round={round:04d}.safetensors"

    def load(self, client: int, round: int) -> dict[str, Tensor]:
        """The state that a client had after ``round``.

        Raises:
            RunError: It was written once but is gone.
        """
        if self.folder is None:
            return self._memory[client][round]
        path = self._path(client, round)
        if not path.exists():
            raise RunError(f"the state of client {client} after round {round} is missing: {path}")
        return read_packed(path)

    def save(self, client: int, round: int, state: dict[str, Tensor]) -> None:
        """Store a client's state after ``round``: written whole under another name first, then renamed."""
        if self.folder is None:
            states = self._memory.setdefault(client, {})
            states[round] = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
            for old in superseded(states, round):
                del states[old]
            return
        path = self._path(client, round)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_packed(path, state)
        files = {int(match[1]): file for file in path.parent.iterdir() if (match := FILE.fullmatch(file.name))}
        for old in superseded(files, round):
            files[old].unlink()


def superseded(rounds: Iterable[int], newest: int) -> list[int]:
    """The rounds whose states go when that of ``newest`` has been saved: all later ones, and all but three.

    Example:
        >>> superseded([0, 7, 8, 9], newest=0)
        [7, 8, 9]
        >>> superseded([0, 1, 2, 3], newest=3)
        [0]
    """
    past = sorted(round for round in rounds if round <= newest)
    return past[:-KEPT] + sorted(round for round in rounds if round > newest)


def write_packed(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as :func:`packed` has them, the layout as metadata."""
    rows, layout = packed(tensors)
    save_tensors(path, rows, {"layout": layout})


def packed(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """One row per type, and names and shapes as JSON.

    Hundreds of small tensors, as Adam has them, take ten times as long one by one.
    """
    rows: dict[str, list[Tensor]] = defaultdict(list)
    layout = []
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        rows[kind].append(tensor.detach().cpu().flatten())
        layout.append((name, kind, list(tensor.shape)))
    return {kind: torch.cat(parts) for kind, parts in rows.items()}, json.dumps(layout)


def read_packed(path: Path) -> dict[str, Tensor]:
    """What :func:`write_packed` wrote."""
    with safe_open(path, "pt") as file:
        rows = {kind: file.get_tensor(kind) for kind in file.keys()}  # noqa: SIM118 - not a mapping
        return unpacked(rows, file.metadata()["layout"])


def unpacked(rows: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The tensors from which :func:`packed` made ``rows`` and ``layout``."""
    tensors, position = {}, dict.fromkeys(rows, 0)
    for name, kind, shape in json.loads(layout):
        begin, position[kind] = position[kind], position[kind] + math.prod(shape)
        tensors[name] = rows[kind][begin : position[kind]].view(shape)
    return tensors


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors ``INDEX.KEY`` (parameter index, state key)."""
    return {
        f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser the state that :func:`optimizer_tensors` took from an equal one."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if "/" in name:  # personal tensors and the schedule's counter
            continue
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def scheduler_after(
    build: Callable[[Optimizer], Any], optimizer: Optimizer, steps: int, steps_per_epoch: int
) -> LRScheduler:
    """A learning rate schedule that has made ``steps`` steps.

    It is replayed from the start, since schedules keep functions and counters that are no tensors; so it goes on with
    the same bits.

    Args:
        build: Builds it.
        optimizer: Whose rate it sets.
        steps: How many it has made.
        steps_per_epoch: Steps of one pass over the client's data, for schedules whose length is given in epochs.

    Raises:
        UsageError: A schedule that follows a score has no counter to go on from.
    """
    scheduler = build(optimizer)
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
        raise UsageError(f"client.scheduler must depend on the step alone, got {type(scheduler).__name__}")
    if isinstance(scheduler, CountsEpochs):
        scheduler.set_steps_per_epoch(steps_per_epoch)
    with warnings.catch_warnings():
        # It expects a step of the optimiser between two of its own.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            scheduler.step()
    return scheduler
