"""MoNNA: the mean of the uploads nearest to one that is trusted."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, distances_from, finite_clients
from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator


class MoNNA(VectorAggregator):
    r"""The mean of the :math:`K-b` uploads nearest to that of a trusted client, itself included.

    In its paper every client runs the rule around its own upload; a server needs one client that it trusts. Ties go
    to the lowest client id. Uploads that hold NaN or infinity are left out first.

    Source: Farhadkhani et al., "Robust Collaborative Learning with Linear Gradient Overhead", ICML 2023, Algorithm 1.

    Args:
        b: Assumed number of hostile clients.
        trusted: Id of the trusted client.

    Attributes:
        diagnostics: ``distances`` (K,) from the trusted upload, NaN for a dropped one; ``selected``, rows from near to
            far; and ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` or ``trusted`` is negative, or no more than ``2b`` finite uploads came.
        RunError: The trusted client took no part, or its upload is not finite.

    Example:
        >>> MoNNA(b=1)(torch.tensor([[1.0, 0.0], [1.5, 0.0], [2.0, 3.0], [-90.0, 7.0]]))
        tensor([1.5000, 1.0000])
    """

    def __init__(self, b: int = 1, trusted: int = 0) -> None:
        super().__init__()
        for name, value in (("b", b), ("trusted", trusted)):
            if value < 0:
                raise UsageError(f"MoNNA: {name} must not be negative, got {value}")
        self.b = b
        self.trusted = trusted
        self.min_clients = 2 * b + 1

    def check(self, clients: int) -> None:
        """As the base class; with ``2b >= K`` the hostile could fill the neighbourhood."""
        if clients <= 2 * self.b:
            raise UsageError(f"MoNNA needs 2b < K, got b = {self.b} and K = {clients} clients")

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
        if self.trusted not in client_ids:
            raise RunError(f"MoNNA: the trusted client {self.trusted} took no part in round {round}")
        pivot = client_ids.index(self.trusted)
        distances = distances_from(updates[pivot], updates)
        if not torch.isfinite(distances[pivot]):
            raise RunError(f"MoNNA: the upload of the trusted client {self.trusted} is not finite in round {round}")
        kept = finite_clients(distances, "MoNNA")
        self.check(len(kept))
        order = distances[kept].argsort(stable=True)[: len(kept) - self.b].tolist()
        selected = [kept[i] for i in order]
        self.diagnostics = {
            "distances": torch.where(torch.isfinite(distances), distances, torch.nan),
            "selected": torch.tensor(selected),
            "dropped": torch.tensor(len(updates) - len(kept)),
        }
        shares = torch.zeros(1, len(kept), dtype=torch.float64)
        shares[:, order] = 1 / len(order)
        return combinations(shares, updates, kept)[0]
