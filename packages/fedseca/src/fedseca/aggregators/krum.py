"""Krum: follow the upload that has the closest neighbours."""

import warnings

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, squared_distances
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def krum_scores(distances: Tensor, b: int) -> Tensor:
    r"""Sum of the distances of each client to its :math:`K-b-2` nearest others.

    Args:
        distances: ``(K, K)`` between clients, plain or squared, zero diagonal.
        b: Assumed number of hostile clients, ``K - b - 2 >= 1``.

    Returns:
        ``(K,)``.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
        >>> krum_scores(torch.cdist(points, points), b=1)
        tensor([1., 1., 2., 6.])
    """
    # The nearest is the client itself, at distance 0.
    return distances.sort(dim=1).values[:, : len(distances) - b - 1].sum(1)


class Krum(VectorAggregator):
    r"""The mean of the ``m`` uploads with the lowest score :math:`\sum_{l \in N_k} \|g_k - g_l\|_2`.

    :math:`N_k` holds the :math:`K-b-2` nearest others of client :math:`k`. The published rule sums squared distances,
    the program that FedSECA was compared with sums plain ones; ``squared`` chooses. Ties go to the lowest client id.
    Uploads that hold NaN or infinity are left out first.

    Source: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
    section 4.

    Args:
        b: Assumed number of hostile clients.
        m: How many uploads to average; more than 1 is Multi-Krum.
        squared: Sum squared distances.

    Attributes:
        diagnostics: ``scores`` (K,), NaN for a dropped upload, ``selected`` (m,) rows in order of score, and
            ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` is negative, ``m`` is less than 1 or more than the finite uploads, or fewer than ``b + 3`` of
            these came.

    Example:
        >>> rule = Krum(b=1)
        >>> rule(torch.tensor([[1.0, 1.0], [1.1, 1.0], [1.0, 1.3], [-50.0, 7.0]]))
        tensor([1., 1.])
    """

    def __init__(self, b: int = 2, m: int = 1, squared: bool = False) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"Krum: b must not be negative, got {b}")
        if m < 1:
            raise UsageError(f"Krum: m must be at least 1, got {m}")
        self.b = b
        self.m = m
        self.squared = squared
        self.min_clients = max(b + 3, m)

    def check(self, clients: int) -> None:
        """As the base class; with ``K - b - 2 < 1`` a score would have no neighbour to sum over."""
        if clients - self.b - 2 < 1:
            raise UsageError(f"Krum needs K - b - 2 >= 1, got b = {self.b} and K = {clients} clients")
        if self.m > clients:
            raise UsageError(f"Krum needs m <= K, got m = {self.m} and K = {clients} clients")

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
        kept = finite_clients(squared.diagonal(), "Krum")
        count = len(kept)
        self.check(count)
        if 2 * self.b + 1 > count:
            warnings.warn(
                f"Krum(b={self.b}) withstands hostile clients only up to {(count - 1) // 2} of {count}", stacklevel=2
            )
        distances = squared[kept][:, kept]
        scores = krum_scores(distances if self.squared else distances.sqrt(), self.b)
        selected = torch.tensor(kept, device=updates.device)[scores.argsort(stable=True)[: self.m]]
        everyone = scores.new_full((len(updates),), torch.nan)
        everyone[kept] = scores
        self.diagnostics = {
            "scores": everyone,
            "selected": selected,
            "dropped": torch.tensor(len(updates) - count),
        }
        if self.m == 1:
            return updates[selected[0]].clone()
        shares = torch.full((1, self.m), 1 / self.m, dtype=torch.float64)
        return combinations(shares, updates, sorted(selected.tolist()))[0]
