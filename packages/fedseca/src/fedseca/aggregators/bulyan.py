"""Bulyan: Krum picks the uploads, a mean around the median combines them."""

import torch
from torch import Tensor

from fedseca.aggregators.krum import krum_scores
from fedseca.aggregators.meamed import mean_around_median
from fedseca.blocks import finite_clients, squared_distances
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def bulyan_selection(distances: Tensor, b: int) -> list[int]:
    r"""The :math:`K-2b` clients that Krum chooses one after the other, each time among those that are left.

    Args:
        distances: ``(K, K)`` squared distances between clients, zero diagonal.
        b: Assumed number of hostile clients.

    Returns:
        Clients in the order of choice. A tie goes to the lowest.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [1.5], [2.0], [2.2], [3.5], [90.0]])
        >>> bulyan_selection(torch.cdist(points, points).square(), b=1)
        [2, 4, 1, 3, 0]
    """
    left = list(range(len(distances)))
    chosen = []
    for _ in range(len(distances) - 2 * b):
        # The last rounds have fewer than b + 3 clients left; the nearest one still counts.
        assumed = min(b, max(len(left) - 3, 0))
        best = left[int(krum_scores(distances[left][:, left], assumed).argmin())]
        chosen.append(best)
        left.remove(best)
    return chosen


class Bulyan(VectorAggregator):
    r"""The mean of the values closest to the median, at every coordinate, among the uploads that Krum selects.

    1. Krum on squared distances selects :math:`\theta = K - 2b` uploads, one after the other, from those left.
    2. At every coordinate, the mean of the :math:`\theta - 2b` selected values closest to their (lower) median.

    Towards the end of the selection fewer clients are left than Krum's neighbour count asks for; the score is then the
    distance to the nearest. Ties go to the lowest client id. Uploads that hold NaN or infinity are left out first.

    Source: El Mhamdi, Guerraoui, Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018,
    section 4.

    Args:
        b: Assumed number of hostile clients.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``selected``, rows in order of choice, and ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` is negative, or fewer than ``4b + 3`` finite uploads came.

    Example:
        >>> uploads = torch.tensor([[0.0], [1.0], [1.5], [2.0], [2.25], [3.5], [90.0]])
        >>> Bulyan(b=1)(uploads)
        tensor([1.5000])
    """

    def __init__(self, b: int = 1, chunk: int | None = None) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"Bulyan: b must not be negative, got {b}")
        self.b = b
        self.chunk = chunk
        self.min_clients = 4 * b + 3

    def check(self, clients: int) -> None:
        """As the base class; with fewer the honest would not outvote the hostile among the selected."""
        if clients < self.min_clients:
            raise UsageError(f"Bulyan needs K >= 4b + 3, got b = {self.b} and K = {clients} clients")

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
        squared = squared_distances(updates)
        # A row that is not finite is at no finite distance from itself either.
        kept = finite_clients(squared.diagonal(), "Bulyan")
        self.check(len(kept))
        selected = [kept[k] for k in bulyan_selection(squared[kept][:, kept], self.b)]
        self.diagnostics = {
            "selected": torch.tensor(selected),
            "dropped": torch.tensor(len(updates) - len(kept)),
        }
        return mean_around_median([updates[k] for k in selected], 2 * self.b, self.chunk)
