"""Coordinate-wise trimmed mean."""

import torch
from torch import Tensor

from fedseca.blocks import chunk_width, finite_clients, peaks, slices
from fedseca.order_statistics import order_statistics
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def trimmed_mean(rows: list[Tensor], b: int, chunk: int | None = None) -> Tensor:
    """Mean of what is left at every coordinate without the ``b`` smallest and the ``b`` largest of K values.

    Args:
        rows: K vectors of ``d`` finite numbers; read only.
        b: How many to leave out at each end, ``2b < K``.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Returns:
        ``(d,)``.

    Example:
        >>> trimmed_mean([torch.tensor([x]) for x in (1.0, 2.0, 4.0, 99.0)], b=1)
        tensor([3.])
    """
    left = range(b, len(rows) - b)
    out = torch.empty_like(rows[0])
    for columns in slices(len(out), chunk_width(len(rows), out.device, chunk)):
        # With nothing to trim there is nothing to sort either.
        pieces = [row[columns] for row in rows]
        total = torch.zeros_like(pieces[0])
        for piece in order_statistics(pieces, left) if b else pieces:
            total += piece
        out[columns] = total.div_(len(left))
    return out


class TrimmedMean(VectorAggregator):
    r"""The mean of every coordinate without its ``b`` smallest and ``b`` largest values.

    :math:`m^j = \frac{1}{K-2b} \sum_{i=b+1}^{K-b} g_{(i)}^j` over the sorted :math:`g_{(1)}^j \le \dots \le g_{(K)}^j`.
    Uploads that hold NaN or infinity are left out first.

    Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
    Definition 2.

    Args:
        b: How many to leave out at each end: the number of hostile clients to withstand. 0 is the mean.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` is negative, or no more than ``2b`` finite uploads came.

    Example:
        >>> TrimmedMean(b=1)(torch.tensor([[1.0, -2.0], [2.0, 100.0], [6.0, -1.0], [3.0, -50.0]]))
        tensor([ 2.5000, -1.5000])
    """

    def __init__(self, b: int = 1, chunk: int | None = None) -> None:
        super().__init__()
        if b < 0:
            raise UsageError(f"TrimmedMean: b must not be negative, got {b}")
        self.b = b
        self.chunk = chunk
        self.min_clients = 2 * b + 1

    def check(self, clients: int) -> None:
        """As the base class; nothing would be left where ``2b >= K``."""
        if clients <= 2 * self.b:
            raise UsageError(f"TrimmedMean needs 2b < K, got b = {self.b} and K = {clients} clients")

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
        kept = finite_clients(peaks(updates), "TrimmedMean")
        self.check(len(kept))
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        return trimmed_mean([updates[k] for k in kept], self.b, self.chunk)
