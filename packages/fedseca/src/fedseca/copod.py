"""COPOD: how far out on a tail of its column each entry of a table lies, added up along its row."""

import torch
from torch import Tensor

# A column whose two sides differ by less than this share is symmetric but for rounding.
SYMMETRIC = 1e-12


def copod(table: Tensor) -> Tensor:
    r"""Outlier score of every row.

    For each column, with :math:`F(x)` the share of its entries that are at most x and :math:`\bar F(x)` the share that
    are at least x, the tails are :math:`U_l = -\log F` and :math:`U_r = -\log \bar F`. A column skewed to the left
    counts :math:`U_l`, one skewed to the right :math:`U_r`, one without skew both; in every case no less than the mean
    of the two.

    Source: Li et al., "COPOD: Copula-Based Outlier Detection", ICDM 2020, Algorithm 1.

    Args:
        table: ``(n, m)`` finite numbers, a sample per row.

    Returns:
        ``(n,)`` float64, the larger the stranger.

    Example:
        >>> copod(torch.tensor([[0.0], [1.0], [2.0], [50.0]]))
        tensor([0.6931, 0.4904, 0.6931, 1.3863], dtype=torch.float64)
    """
    columns = table.double().T.contiguous()
    n = columns.shape[1]
    ordered = columns.sort(dim=1).values
    # In float64 before dividing: whole numbers would divide into float32.
    left = -torch.log(torch.searchsorted(ordered, columns, right=True).double() / n)
    right = -torch.log((n - torch.searchsorted(ordered, columns)).double() / n)
    # Scaled to its own range, no power under- or overflows, and equal entries have no skew by rounding.
    spread = ordered[:, -1:] - ordered[:, :1]
    scaled = torch.where(spread > 0, (columns - ordered[:, :1]) / spread, 0.0)
    # Where all entries are equal this divides 0 by 0, but there both tails are 0 too.
    cubes = (scaled - scaled.mean(1, keepdim=True)).pow(3)
    skew = torch.hardshrink(cubes.sum(1, keepdim=True) / cubes.abs().sum(1, keepdim=True), SYMMETRIC).sign()
    tail = left * (skew <= 0) + right * (skew >= 0)
    return torch.maximum(tail, (left + right) / 2).sum(0)
