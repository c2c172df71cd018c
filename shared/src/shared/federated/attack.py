"""Contract of an attack: what hostile clients train on and what they upload instead of their honest result."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shared.federated.aggregation import StateRule, VectorAggregator


class Attack(nn.Module):
    """What the hostile clients do. The base class is the honest upload: no attack.

    An attack sees everything (all honest updates of the round, the global vector, the server's rule) and changes
    nothing but the rows of the hostile clients. State across rounds lives in buffers. Randomness comes from the
    generator it is given, never from a global one.
    """

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate state buffers for vectors of ``d`` coordinates; called before the first round and before loading."""

    def check(self, aggregator: VectorAggregator | StateRule) -> None:
        """Refuse a server rule against which the attack has no meaning; the default takes on every rule.

        Raises:
            UsageError: The attack cannot do its work against this rule.
        """

    def poison(self, batch: Any, num_classes: int | None) -> Any:
        """Replace a hostile client's training batch; the default trains honestly."""
        return batch

    def forward(
        self,
        updates: Tensor,
        *,
        byzantine: Sequence[int],
        client_ids: Sequence[int],
        origin: Tensor | None = None,
        round: int = 0,
        aggregator: VectorAggregator | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Craft the hostile uploads of one round.

        Args:
            updates: ``(K, d)`` pseudo-gradients of all participants, each trained as :meth:`poison` left it; read only.
            byzantine: Row indices (not ids) of the ``B`` hostile clients, ascending.
            client_ids: The ``K`` client ids, ascending.
            origin: ``(d,)`` the global vector before the round.
            round: Index of the round, from 0.
            aggregator: The server's rule, for attacks tailored to it; must be copied before it is run.
            generator: Source of randomness of this round.

        Returns:
            ``(B, d)`` what the hostile clients upload, in the order of ``byzantine``.
        """
        return updates[list(byzantine)]
