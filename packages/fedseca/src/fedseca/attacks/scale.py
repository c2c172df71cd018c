"""Scaling: an honest result, many times too large."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from fedseca.attacks.omniscience import known_origin
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack

Scaled = Literal["weights", "update"]


class Scale(Attack):
    r"""Each hostile client uploads its own honest result times ``factor``.

    With ``on="weights"`` it is the weights that grow, :math:`W_{byz} = f W_k`, and so the pseudo-gradient is
    :math:`W - f (W - g_k)`; with ``on="update"`` it is the pseudo-gradient itself, :math:`f g_k`. Running statistics
    that stand in the vector grow too; integer counters do not stand in it and keep value and type.

    Source: Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020, for updates; the
    program that FedSECA was compared with scales weights.

    Args:
        factor: f.
        on: What is scaled, ``weights`` or ``update``.

    Raises:
        UsageError: ``on`` is neither of the two, or the global vector is not given where weights are scaled.

    Example:
        >>> updates, origin = torch.tensor([[1.0], [2.0], [-3.0]]), torch.tensor([5.0])
        >>> Scale(factor=2.0)(updates, byzantine=[2], client_ids=[0, 1, 2], origin=origin)  # weights 8 become 16
        tensor([[-11.]])
        >>> Scale(factor=2.0, on="update")(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[-6.]])
    """

    def __init__(self, factor: float = 10.0, on: Scaled = "weights") -> None:
        super().__init__()
        if on not in get_args(Scaled):
            raise UsageError(f"Scale: on must be one of {', '.join(get_args(Scaled))}, got {on!r}")
        self.factor = factor
        self.on: Scaled = on

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
        own = updates[list(byzantine)]
        if self.on == "update":
            return own.mul_(self.factor)
        origin = known_origin("Scale", origin)
        return own.sub_(origin).mul_(self.factor).add_(origin)
