"""MeaMed: the mean of the values that lie closest to the median, coordinate by coordinate."""

import torch
from torch import Tensor

from fedseca.aggregators.minority_rule import MinorityRule
from fedseca.blocks import chunk_width, slices
from fedseca.order_statistics import order_statistics


def mean_around_median(rows: list[Tensor], b: int, chunk: int | None = None) -> Tensor:
    r"""Mean of the :math:`K-b` values closest to the lower median of K, at every coordinate.

    The L = K - b closest values are neighbours in order, so among the ranks r, r + L, r + 2L, ... exactly one is of
    them: the one closest to the median. One sort and b comparisons therefore do.

    Args:
        rows: K vectors of ``d`` finite numbers; read only.
        b: How many to leave out, ``b < K``; of two that are equally far the larger.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Returns:
        ``(d,)``.

    Example:
        >>> mean_around_median([torch.tensor([x]) for x in (1.0, 2.0, 4.0, 9.0, 99.0)], b=2)
        tensor([2.3333])
    """
    n, near = len(rows), len(rows) - b
    out = torch.empty_like(rows[0])
    for columns in slices(len(out), chunk_width(n, out.device, chunk)):
        ordered = order_statistics([row[columns] for row in rows], range(n))
        median = ordered[(n - 1) // 2]
        total = torch.zeros_like(median)
        for rank in range(near):
            closest = ordered[rank]
            for value in ordered[rank + near :: near]:
                # Right too where both are on one side of the median: then one of the differences is negative.
                closest = torch.where(median - closest <= value - median, closest, value)
            total += closest
        out[columns] = total.div_(near)
    return out


class MeaMed(MinorityRule):
    r"""The mean of the :math:`K-b` values closest to the median of every coordinate.

    The median of an even number of values is the lower of the two middle ones, and of two values equally far from it
    the smaller is kept. Uploads that hold NaN or infinity are left out first.

    Source: Xie, Koyejo, Gupta, "Generalized Byzantine-tolerant SGD", arXiv 1802.10116, Definition 8.

    Args:
        b: Assumed number of hostile clients.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``b`` is negative, or no more than ``2b`` finite uploads came.

    Example:
        >>> MeaMed(b=1)(torch.tensor([[1.0, -2.0], [2.0, 100.0], [6.0, -1.0], [3.0, -50.0]]))
        tensor([  2.0000, -17.6667])
    """

    def __init__(self, b: int = 1, chunk: int | None = None) -> None:
        super().__init__(b, chunk)

    def of_finite(self, rows: list[Tensor]) -> Tensor:
        """:func:`mean_around_median` of all of them."""
        return mean_around_median(rows, self.b, self.chunk)
