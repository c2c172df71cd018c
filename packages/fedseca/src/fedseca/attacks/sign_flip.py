"""Sign flipping: an honest upload, reversed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack


class SignFlip(Attack):
    """Each hostile client uploads the negative of its own honest pseudo-gradient, ``-g_k``.

    Source: Li et al., "RSA: Byzantine-Robust Stochastic Aggregation Methods for Distributed Learning from Heterogeneous
    Datasets", AAAI 2019.

    Example:
        >>> SignFlip()(torch.tensor([[1.0], [2.0], [-3.0]]), byzantine=[2], client_ids=[0, 1, 2])
        tensor([[3.]])
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
        return updates[list(byzantine)].neg_()
