"""What can be done to the uploads before a rule combines them: clip, mix with neighbours, average in buckets.

Each step is a module from a matrix of uploads to another one; :class:`fedseca.aggregators.PreAggregated` puts a chain
of them before any rule.
"""

import torch
from torch import Tensor, nn

from fedseca.blocks import BLOCK, combinations, quick_squared_norms, slices, squared_distances
from shared.errors import UsageError
from shared.federated.seeds import derived_generator


class PreAggregator(nn.Module):
    """A step from ``(K, d)`` finite uploads to ``(M, d)``; subclasses implement ``forward``.

    Inputs are never modified, and a step keeps nothing from one round to the next.

    Attributes:
        min_clients: The least number of uploads with which the step has a meaning.
    """

    min_clients: int = 1

    def check(self, clients: int) -> None:
        """Refuse a number of uploads with which the step has no meaning; steps with more to say extend it."""

    def left(self, clients: int) -> int:
        """How many rows the step makes of ``clients`` rows."""
        return clients

    def forward(self, updates: Tensor, *, round: int = 0) -> Tensor:
        """The step itself."""
        raise NotImplementedError


class StaticClipping(PreAggregator):
    r"""Shorten every upload to a fixed length at most, :math:`g_k \min(1, \tau / \|g_k\|_2)`.

    Args:
        tau: The greatest length.

    Raises:
        UsageError: ``tau`` is not positive.

    Example:
        >>> StaticClipping(tau=2.5)(torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
        tensor([[1.5000, 2.0000],
                [1.0000, 0.0000]])
    """

    def __init__(self, tau: float = 2.0) -> None:
        super().__init__()
        if not tau > 0:
            raise UsageError(f"StaticClipping: tau must be positive, got {tau}")
        self.tau = tau

    def forward(self, updates: Tensor, *, round: int = 0) -> Tensor:
        norms = quick_squared_norms(updates).sqrt()
        return updates * torch.where(norms > self.tau, self.tau / norms, 1.0).to(updates)[:, None]


class NNM(PreAggregator):
    r"""Nearest-neighbour mixing: replace every upload by the mean of the :math:`K-b` nearest, itself included.

    Ties go to the lowest row.

    Source: Allouah et al., "Fixing by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity", AISTATS 2023,
    Algorithm 2.

    Args:
        b: Assumed number of hostile clients.

    Raises:
        UsageError: ``b`` is negative, or no more than ``2b`` uploads came.

    Example:
        >>> NNM(b=1)(torch.tensor([[0.0], [1.0], [4.0], [90.0]]))
        tensor([[ 1.6667],
                [ 1.6667],
                [ 1.6667],
                [31.6667]])
    """

    def __init__(self, b: int = 1) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"NNM: b must not be negative, got {b}")
        self.b = b
        self.min_clients = 2 * b + 1

    def check(self, clients: int) -> None:
        """With ``2b >= K`` the hostile could outnumber the honest in every neighbourhood."""
        if clients <= 2 * self.b:
            raise UsageError(f"NNM needs 2b < K, got b = {self.b} and K = {clients} clients")

    def forward(self, updates: Tensor, *, round: int = 0) -> Tensor:
        k = len(updates)
        nearest = squared_distances(updates).argsort(dim=1, stable=True)[:, : k - self.b]
        mixing = updates.new_zeros(k, k).scatter_(1, nearest, 1 / (k - self.b))
        return combinations(mixing, updates, range(k))


class Bucketing(PreAggregator):
    r"""Shuffle the uploads and replace every ``size`` of them by their mean; the last bucket may hold fewer.

    The order depends on the seed and the round alone.

    Source: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022,
    Algorithm 1.

    Args:
        size: How many uploads share a bucket, s.
        seed: Of the order.

    Raises:
        UsageError: ``size`` is less than 1.

    Example:
        >>> Bucketing(size=2)(torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0]]))
        tensor([[1.],
                [1.],
                [1.]])
    """

    def __init__(self, size: int = 2, seed: int = 0) -> None:
        super().__init__()
        if size < 1:
            raise UsageError(f"Bucketing: size must be at least 1, got {size}")
        self.size = size
        self.seed = seed

    def left(self, clients: int) -> int:
        """As many as there are buckets."""
        return -(-clients // self.size)

    def buckets(self, clients: int, round: int) -> list[list[int]]:
        """Rows of each bucket in one round."""
        order = torch.randperm(clients, generator=derived_generator(self.seed, "buckets", round)).tolist()
        return [order[start : start + self.size] for start in range(0, clients, self.size)]

    def mixing(self, clients: int, round: int) -> Tensor:
        """Share of each row in each bucket, ``(M, K)`` float64."""
        shares = torch.zeros(self.left(clients), clients, dtype=torch.float64)
        for share, bucket in zip(shares, self.buckets(clients, round), strict=True):
            share[bucket] = 1 / len(bucket)
        return shares

    def forward(self, updates: Tensor, *, round: int = 0) -> Tensor:
        out = updates.new_empty(self.left(len(updates)), updates.shape[1])
        buckets = self.buckets(len(updates), round)
        for columns in slices(updates.shape[1], BLOCK):
            for (first, *others), mean in zip(buckets, out[:, columns], strict=True):
                torch.mul(updates[first, columns], 1 / (1 + len(others)), out=mean)
                for other in others:
                    mean.add_(updates[other, columns], alpha=1 / (1 + len(others)))
        return out
