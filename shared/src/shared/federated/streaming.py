"""The weighted mean of a round's uploads, added up one by one so that they need not be held together."""

import torch
from torch import Tensor

STREAMED_FROM = 2**30
"""Bytes of a round's matrix of uploads from which a rule that can stream does so."""


class StreamedMean:
    r"""The weighted mean :math:`\sum_k w_k g_k / \sum_k w_k` of vectors that come one after the other.

    Weights need not sum to one, since who will be left out is not known before the last upload. Sums are in float64, so
    the mean differs from that of the whole matrix by the matrix product's own float32 rounding: at most about
    :math:`K \cdot 6 \cdot 10^{-8}` of the largest entry. Memory is one vector in float64, whatever the number of
    clients. The order of the vectors decides the last bits.

    Args:
        size: Coordinates of a vector.
        device: Where the sum is kept.

    Example:
        >>> mean = StreamedMean(2)
        >>> mean.add(torch.tensor([1.0, 2.0]), 3)
        >>> mean.add(torch.tensor([5.0, 6.0]), 1)
        >>> mean.value().tolist()
        [2.0, 3.0]
    """

    def __init__(self, size: int, device: torch.device | str | None = None) -> None:
        self.total = torch.zeros(size, dtype=torch.float64, device=device)
        self.weight = 0.0

    def add(self, vector: Tensor, weight: float) -> None:
        """Count ``vector`` ``(size,)`` with a weight above 0."""
        self.total.add_(vector, alpha=weight)
        self.weight += weight

    def value(self) -> Tensor:
        """``(size,)`` float32."""
        return (self.total / self.weight).float()
