"""The server's side of a round: what the uploads become after the attack, and the new global model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.attack import Attack
from shared.federated.uploads import is_finite
from shared.federated.vectors import VectorLayout


def replace_hostile(
    attack: Attack,
    updates: Tensor,
    hostile: Sequence[int],
    *,
    ids: Sequence[int],
    origin: Tensor,
    round: int,
    aggregator: VectorAggregator | StateRule,
    generator: torch.Generator,
) -> list[int]:
    """Let ``attack`` replace the rows ``hostile`` of ``updates`` in place; rows are as for :func:`combine`.

    Returns:
        Those of ``hostile`` that are not finite afterwards and must be left out.
    """
    on_vectors = isinstance(aggregator, VectorAggregator)
    crafted = attack(
        updates if on_vectors else origin - updates,
        byzantine=hostile,
        client_ids=ids,
        origin=origin,
        round=round,
        aggregator=aggregator if isinstance(aggregator, VectorAggregator) else None,
        generator=generator,
    )
    updates[list(hostile)] = crafted if on_vectors else origin - crafted
    return [row for row in hostile if not is_finite(updates[row])]


def combine(
    aggregator: VectorAggregator | StateRule,
    layout: VectorLayout,
    updates: Tensor,
    state: dict[str, Tensor],
    *,
    origin: Tensor,
    weights: Tensor,
    ids: Sequence[int],
    round: int,
    counters: dict[str, Any],
    reference: Tensor | None = None,
) -> int:
    """Combine the updates of a round and write the new global model into ``state``.

    Args:
        aggregator: The rule.
        layout: How ``state`` stands in a vector; the rule sees its head, the rest is averaged plainly.
        updates: ``(K, layout.size)`` sorted by client id: origin minus each client's result for a rule on vectors, the
            results as they came for one on named tensors.
        state: The global tensors, changed in place.
        origin: ``(layout.size,)`` the global vector before the round.
        weights: ``(K,)`` summing to one.
        ids: The client ids.
        round: Index of the round.
        counters: Integer tensors (BatchNorm's step counters) as the first client reports them.
        reference: ``(layout.head,)`` the server's own update, for rules that need one.

    Returns:
        How many running variances came out negative and were set to 0.
    """
    if isinstance(aggregator, VectorAggregator):
        head = layout.head
        update = aggregator(
            updates[:, :head],
            origin=origin[:head],
            weights=weights,
            client_ids=ids,
            round=round,
            reference=reference,
        )
        if head < layout.size:
            update = torch.cat([update, weights.to(updates) @ updates[:, head:]])
        layout.write(origin - update, state)
    else:
        uploads = [layout.views(row) for row in updates]
        combined = aggregator(uploads, origin=layout.views(origin), weights=weights, client_ids=ids, round=round)
        for name, tensor in combined.items():
            state[name].copy_(tensor)
    negative = 0
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            tensor.copy_(torch.tensor(counters[name], dtype=tensor.dtype))
        elif name.endswith("running_var"):
            # Signed rules with momentum can push a variance below zero, where BatchNorm has no meaning.
            negative += int((tensor < 0).sum())
            tensor.clamp_(min=0)
    return negative
