"""What rules on the ordered values of every coordinate have in common: b hostile clients that are fewer than half."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from fedseca.blocks import finite_clients, peaks
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


class MinorityRule(VectorAggregator, ABC):
    """A rule on the finite uploads that has a meaning where ``2b < K``.

    Args:
        b: Assumed number of hostile clients.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` is negative, or no more than ``2b`` finite uploads came.
    """

    def __init__(self, b: int, chunk: int | None) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"{type(self).__name__}: b must not be negative, got {b}")
        self.b = b
        self.chunk = chunk
        self.min_clients = 2 * b + 1

    def check(self, clients: int) -> None:
        """As the base class; with ``2b >= K`` hostile values could be the median, and nothing is left when trimmed."""
        if clients <= 2 * self.b:
            raise UsageError(f"{type(self).__name__} needs 2b < K, got b = {self.b} and K = {clients} clients")

    @abstractmethod
    def of_finite(self, rows: list[Tensor]) -> Tensor:
        """The rule on ``2b + 1`` or more finite uploads, each ``(d,)`` and read only; ``(d,)``."""

    def combine(
        self,
        updates: Tensor,
        *,
        origin: Tensor | None,
        weights: Tensor,
        client_ids: tuple[int, ...],
        round: int,
        reference: Tensor | None,
    ) -> Tensor:
        kept = finite_clients(peaks(updates), type(self).__name__)
        self.check(len(kept))
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        return self.of_finite([updates[k] for k in kept])
