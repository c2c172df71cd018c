"""Who takes part in a round, and the record of it."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from shared.checkpoints import save_tensors
from shared.federated.ledger import forget_rounds_from
from shared.federated.seeds import derived_seed

COLUMNS = ("round", "participants", "failures", "seconds")


def participants_per_round(clients: int, share: float) -> int:
    """``share * clients`` rounded half up, at least one."""
    return clients if share >= 1 else max(1, int(np.floor(share * clients + 0.5)))


def participants_of_round(client_ids: list[int], share: float, seed: int, round: int) -> list[int]:
    """The clients of one round, ascending: ``round(share * K)`` of them, at least one, drawn without replacement.

    Example:
        >>> participants_of_round([0, 1, 2, 3], 1.0, seed=0, round=7)
        [0, 1, 2, 3]
        >>> len(participants_of_round([0, 1, 2, 3], 0.5, seed=0, round=7))
        2
    """
    if share >= 1:
        return sorted(client_ids)
    generator = np.random.default_rng(derived_seed(seed, "participants", round))
    count = participants_per_round(len(client_ids), share)
    return sorted(generator.choice(sorted(client_ids), size=count, replace=False).tolist())


class RoundLog:
    """``rounds.csv`` of a run: who took part in each round and who failed, why. Enough to replay the run.

    Args:
        folder: The run folder; ``None`` records nothing.
        first: First round that will be run; rows from there on, left by an interrupted run, are dropped.
    """

    def __init__(self, folder: Path | None, first: int) -> None:
        self.path = folder and folder / "rounds.csv"
        if folder is not None:
            for name in ("rounds.csv", "ledger.csv"):
                forget_rounds_from(folder / name, first)

    def write(self, round: int, participants: list[int], failures: dict[int, str], seconds: float) -> None:
        """Append one round."""
        if self.path is None:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(COLUMNS)
            # A semicolon separates two clients, and no reason can feign another one.
            reasons = {client: " ".join(reason.replace(";", ",").split()) for client, reason in failures.items()}
            told = "; ".join(f"{client}: {reason}" for client, reason in reasons.items())
            writer.writerow([round, " ".join(map(str, participants)), told, f"{seconds:.3f}"])


class Failure(NamedTuple):
    """A client that was left out of a round."""

    round: int
    client: int
    reason: str


def read_failures(path: Path) -> list[Failure]:
    """Who was left out of which round and why, from a ``rounds.csv``; nobody where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Failure(int(row["round"]), int(client), reason)
            for row in csv.DictReader(file)
            for client, reason in re.findall(r"(\d+): ([^;]*)", row["failures"])
        ]


def log_diagnostics(
    diagnostics: Mapping[str, Tensor], ids: Sequence[int], round: int, folder: Path | None
) -> dict[str, float]:
    """What a server rule tells about a round: numbers to log, and larger tensors written to the run folder.

    Scalars become ``server/NAME``, vectors with one entry per client ``server/NAME/client_ID``; anything else goes into
    ``diagnostics/round=N.safetensors``.
    """
    values: dict[str, float] = {}
    matrices: dict[str, Tensor] = {}
    for name, tensor in diagnostics.items():
        if tensor.numel() == 1:
            values[f"server/{name}"] = float(tensor)
        elif tensor.shape == (len(ids),):
            values |= {f"server/{name}/client_{k}": float(v) for k, v in zip(ids, tensor, strict=True)}
        else:
            matrices[name] = tensor
    if matrices and folder is not None:
        path = folder / "diagnostics" / f"round={round:04d}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_tensors(path, matrices)
    return values
