"""The communication ledger: how many bytes travelled, by round, client, direction and component."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

COLUMNS = ("round", "client", "direction", "component", "bytes")


@dataclass(frozen=True)
class Entry:
    """One component of one message. ``direction`` is ``down`` (server to client) or ``up``."""

    round: int
    client: int
    direction: str
    component: str
    bytes: int


class PayloadMeter:
    """Bytes of a message by component, measured on its safetensors serialisation.

    The size of such a file depends on names, shapes and types alone, so each distinct signature is serialised once
    and its sizes are reused.

    Args:
        components: Name of a component to the tensor names that belong to it; together they must cover a payload.
    """

    def __init__(self, components: Mapping[str, frozenset[str]]) -> None:
        self.components = dict(components)
        self._sizes: dict[tuple[tuple[str, tuple[int, ...], str], ...], dict[str, int]] = {}

    def measure(self, payload: Mapping[str, Tensor]) -> dict[str, int]:
        """Bytes per component, and under ``header`` what the file format itself takes; zeros are left out."""
        signature = tuple((name, tuple(t.shape), str(t.dtype)) for name, t in payload.items())
        if signature not in self._sizes:
            total = len(save({name: t.detach().contiguous().cpu() for name, t in payload.items()}))
            sizes = {
                component: sum(t.numel() * t.element_size() for name, t in payload.items() if name in names)
                for component, names in self.components.items()
            }
            sizes["header"] = total - sum(sizes.values())
            self._sizes[signature] = {component: size for component, size in sizes.items() if size}
        return self._sizes[signature]


class Ledger:
    """All messages of a run: rows in a CSV file of the run folder, running totals in memory and in checkpoints."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {"down": 0, "up": 0}
        self.last_round: dict[str, int] = {"down": 0, "up": 0}
        self._pending: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Count one component of one message."""
        self._pending.append(entry)
        self.totals[entry.direction] += entry.bytes

    def close_round(self, path: Path | None) -> None:
        """Append the round's rows to the file at ``path`` (``None``: keep the totals only)."""
        self.last_round = {
            direction: sum(e.bytes for e in self._pending if e.direction == direction) for direction in ("down", "up")
        }
        if path is not None and self._pending:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            if not path.exists():
                writer.writerow(COLUMNS)
            writer.writerows((e.round, e.client, e.direction, e.component, e.bytes) for e in self._pending)
            with path.open("a") as file:
                file.write(text.getvalue())
        self._pending.clear()

    def state_dict(self) -> dict[str, int]:
        """The running totals, for a checkpoint."""
        return dict(self.totals)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore the running totals."""
        self.totals = {"down": int(state["down"]), "up": int(state["up"])}


def forget_rounds_from(path: Path, first: int) -> None:
    """Drop the rows of round ``first`` and later from a CSV file with a ``round`` column, before they are run again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("round")
    # A row cut short by a crash has no whole number in every column; it belongs to a round that will be run again.
    kept = [row for row in rows[1:] if len(row) == len(rows[0]) and row[column].isdigit() and int(row[column]) < first]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([rows[0], *kept])
    temporary.replace(path)
