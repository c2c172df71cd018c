"""Clients sharded over the processes of one run: who trains whom, and how the results meet."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def owner_of(position: int, world_size: int) -> int:
    """Rank that trains the participant at ``position`` of the round's list."""
    return position % world_size


def share_rows(rows: Tensor) -> None:
    """Fill every rank's ``(K, d)`` matrix: row ``i`` comes from :func:`owner_of` ``(i)``. In place."""
    for position, row in enumerate(rows):
        dist.broadcast(row, src=owner_of(position, dist.get_world_size()))


def share_reports(reports: dict[int, dict[str, Any]], device: torch.device) -> dict[int, dict[str, Any]]:
    """Merge the small JSON-like reports of all ranks, keyed by position in the round's list."""
    own = torch.tensor(list(json.dumps(reports).encode()), dtype=torch.uint8, device=device)
    lengths = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=device)
    lengths[dist.get_rank()] = own.numel()
    dist.all_reduce(lengths)
    merged: dict[int, dict[str, Any]] = {}
    for rank, length in enumerate(lengths.tolist()):
        text = own if rank == dist.get_rank() else torch.empty(length, dtype=torch.uint8, device=device)
        dist.broadcast(text, src=rank)
        merged |= {int(position): report for position, report in json.loads(bytes(text.tolist())).items()}
    return dict(sorted(merged.items()))
