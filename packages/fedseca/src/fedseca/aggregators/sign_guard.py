"""SignGuard: filter by length and by the mix of signs, clip what is left, average."""

import math
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from fedseca.blocks import BLOCK, combinations, finite_clients, squared_norms
from fedseca.mean_shift import mean_shift, neighbour_bandwidth
from fedseca.subsample import subsample
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def sign_shares(rows: Tensor) -> Tensor:
    """Shares of positive, zero and negative entries of every row.

    Args:
        rows: ``(K, n)``.

    Returns:
        ``(K, 3)`` float64.

    Example:
        >>> sign_shares(torch.tensor([[1.0, 2.0, 0.0, -3.0]]))
        tensor([[0.5000, 0.2500, 0.2500]], dtype=torch.float64)
    """
    # numpy counts a truth value a bit at a time, torch turns each of them into a whole number of eight bytes first.
    count = torch.count_nonzero if rows.is_cuda else lambda mask: torch.tensor(np.count_nonzero(mask.numpy()))
    counts = []
    for row in rows:
        blocks = [torch.stack([count(mask) for mask in (x > 0, x == 0, x < 0)]) for x in row.split(BLOCK)]
        counts.append(torch.stack(blocks).sum(0))
    return torch.stack(counts).double() / rows.shape[1]


class SignGuard(VectorAggregator):
    r"""The mean of the norm-clipped uploads whose length and whose mix of signs are like most others'.

    1. With the (lower) median norm M, keep the clients with :math:`l M \le \|g_k\| \le r M`.
    2. On random coordinates, cluster the clients' shares of positive, zero and negative entries by mean shift, and keep
       the largest cluster.
    3. :math:`m` is the mean over who passed both of :math:`g_k \min(1, M/\|g_k\|)`; where nobody did the model stays
       as it is.

    Draws depend on the seed and the round alone; of clusters of equal size, that of the lowest client id is kept.
    Uploads that hold NaN or infinity are left out first.

    Source: Xu et al., "Byzantine-robust Federated Learning through Collaborative Malicious Gradient Filtering",
    ICDCS 2022, Algorithm 2.

    Args:
        lower: l.
        upper: r.
        fraction: Share of the coordinates whose signs are counted, in (0, 1].
        quantile: Share of the clients that set the bandwidth, see :func:`fedseca.mean_shift.neighbour_bandwidth`.
        seed: Of the draw of coordinates.

    Attributes:
        diagnostics: ``kept`` (K,), 1 for a client in the mean, else 0, and ``dropped``, how many uploads were not
            finite.

    Raises:
        UsageError: An argument is out of range, or too few finite uploads came for the bandwidth to mean something.

    Example:
        >>> uploads = torch.tensor([[1.0, 2.0, -1.0], [2.0, 1.0, -1.0], [1.0, 1.0, -2.0], [-1.0, -1.0, 2.0]])
        >>> SignGuard(fraction=1.0)(uploads)
        tensor([ 1.3333,  1.3333, -1.3333])
    """

    def __init__(
        self, lower: float = 0.1, upper: float = 3.0, fraction: float = 0.1, quantile: float = 0.5, seed: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= lower <= 1 <= upper:
            raise UsageError(f"SignGuard needs 0 <= lower <= 1 <= upper, got {lower} and {upper}")
        for name, value in (("fraction", fraction), ("quantile", quantile)):
            if not 0 < value <= 1:
                raise UsageError(f"SignGuard: {name} must be in (0, 1], got {value}")
        self.lower = lower
        self.upper = upper
        self.fraction = fraction
        self.quantile = quantile
        self.seed = seed
        self.min_clients = math.ceil(2 / quantile)

    def check(self, clients: int) -> None:
        """As the base class; with no neighbour to set the bandwidth every client would be a cluster of its own."""
        if clients < self.min_clients:
            raise UsageError(
                f"SignGuard needs quantile * K >= 2, got quantile = {self.quantile} and K = {clients} clients"
            )

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
        squared = squared_norms(updates)
        kept = finite_clients(squared, "SignGuard")
        self.check(len(kept))
        norms = squared[kept].sqrt()
        middle = norms.median()
        plausible = (norms >= self.lower * middle) & (norms <= self.upper * middle)
        size = math.ceil(self.fraction * updates.shape[1])
        shares = sign_shares(subsample(updates, size, self.seed, round))[kept].cpu()
        clusters = mean_shift(shares, neighbour_bandwidth(shares, self.quantile))
        # Counter lists equal counts in the order in which it met them.
        largest = Counter(clusters).most_common(1)[0][0]
        alike = torch.tensor([cluster == largest for cluster in clusters], device=norms.device)
        good = plausible & alike
        everyone = torch.zeros(len(updates), device=norms.device)
        everyone[kept] = good.float()
        self.diagnostics = {"kept": everyone, "dropped": torch.tensor(len(updates) - len(kept))}
        factors = torch.where(norms > middle, middle / norms, 1.0) * good / good.sum().clamp(min=1)
        return combinations(factors[None], updates, kept)[0]
