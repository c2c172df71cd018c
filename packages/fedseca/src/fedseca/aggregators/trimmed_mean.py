"""Coordinate-wise trimmed mean."""

import torch
from torch import Tensor

from fedseca.aggregators.minority_rule import MinorityRule
from fedseca.blocks import chunk_width, slices
from fedseca.order_statistics import order_statistics


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


class TrimmedMean(MinorityRule):
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
        super().__init__(b, chunk)

    def of_finite(self, rows: list[Tensor]) -> Tensor:
        """:func:`trimmed_mean` of all of them."""
        return trimmed_mean(rows, self.b, self.chunk)
