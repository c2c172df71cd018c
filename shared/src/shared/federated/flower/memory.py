"""A client's state between rounds inside Flower's context, and in files where it must outlive the run."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from torch import Tensor

from shared.errors import RunError
from shared.federated.client_states import KEPT, ClientStates, packed, unpacked
from shared.federated.flower.messages import from_arrays, to_arrays

ROWS, LAYOUT = "rows of round ", "layout of round "


class ContextStates:
    """Keeps the newest three states of the one client of a node in its Flower context.

    A context belongs to one Flower run. A server that was restarted is a new one; for it the states are kept in files
    too, where the node has a folder for them, and the context then holds the newest only.

    Args:
        context: The node's.
        folder: Of the files, or ``None``.
    """

    def __init__(self, context: Context, folder: Path | None = None) -> None:
        self.records = context.state
        self.files = None if folder is None else ClientStates(folder)

    def load(self, client: int, round: int) -> dict[str, Tensor]:
        """The state that the client had after ``round``.

        Raises:
            RunError: It is not here any more.
        """
        rows, layout = self.records.get(f"{ROWS}{round}"), self.records.get(f"{LAYOUT}{round}")
        if isinstance(rows, ArrayRecord) and isinstance(layout, ConfigRecord):
            kinds = {kind: tensor.view(getattr(torch, kind)) for kind, tensor in from_arrays(rows).items()}
            return unpacked(kinds, str(layout["json"]))
        if self.files is None:
            raise RunError(
                f"the state of client {client} after round {round} is missing: a node keeps it beyond a Flower run "
                "only with state-dir in its node config"
            )
        return self.files.load(client, round)

    def save(self, client: int, round: int, state: dict[str, Tensor]) -> None:
        """Store the client's state after ``round``."""
        rows, layout = packed(state)
        self.records[f"{ROWS}{round}"] = to_arrays({kind: row.view(torch.uint8) for kind, row in rows.items()})
        self.records[f"{LAYOUT}{round}"] = ConfigRecord({"json": layout})
        rounds = sorted(int(name.removeprefix(ROWS)) for name in self.records if name.startswith(ROWS))
        for old in rounds[: -1 if self.files is not None else -KEPT]:
            del self.records[f"{ROWS}{old}"], self.records[f"{LAYOUT}{old}"]
        if self.files is not None:
            self.files.save(client, round, state)
