"""Random weights: noise instead of a model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedseca.attacks.omniscience import known_origin
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack


class Random(Attack):
    """Each hostile client uploads weights drawn from U(0, 1), anew in every round.

    Raises:
        UsageError: The global vector or the round's generator is not given.

    Example:
        >>> updates, origin = torch.zeros(3, 2), torch.tensor([1.0, 1.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> Random()(updates, byzantine=[2], client_ids=[0, 1, 2], origin=origin, generator=generator)
        tensor([[0.5037, 0.2318]])
    """

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
        if generator is None:
            raise UsageError("Random needs generator, the round's source of randomness, got none")
        noise = torch.rand(len(byzantine), updates.shape[1], generator=generator).to(updates)
        return known_origin("Random", origin) - noise
