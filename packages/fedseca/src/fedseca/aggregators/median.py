"""Coordinate-wise median."""

import torch
from torch import Tensor

from fedseca.blocks import finite_clients, peaks
from fedseca.order_statistics import lower_median
from shared.federated.aggregation import VectorAggregator


class CoordinateMedian(VectorAggregator):
    r"""The median of every coordinate, :math:`m^j = \mathrm{median}_k\, g_k^j`.

    Of an even number of values it is the lower of the two middle ones. Uploads that hold NaN or infinity are left out.

    Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
    Definition 1.

    Args:
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: No upload is finite.

    Example:
        >>> CoordinateMedian()(torch.tensor([[1.0, -2.0], [2.0, 100.0], [3.0, -1.0]]))
        tensor([ 2., -1.])
    """

    def __init__(self, chunk: int | None = None) -> None:
        super().__init__()
        self.chunk = chunk

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
        kept = finite_clients(peaks(updates), "CoordinateMedian")
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        return lower_median([updates[k] for k in kept], self.chunk)
