"""RoCA, Robust Coordinate-wise Aggregation: bound what any client can say, then average those who agree.

Every function but :func:`clip_factors` treats coordinates independently, so it may be applied to any slice of them.
They go client by client: slices that fit the cache are then too short for torch to wake threads for.

Source: Benjamin et al., "FedSECA: Sign Election and Coordinate-wise Aggregation of Gradients for Byzantine Tolerant
Federated Learning", CVPR 2025 workshops, arXiv 2411.03861, Eqs. 4-7.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedseca.order_statistics import lower_median

Keep = Literal[">=", ">"]
Rows = Sequence[Tensor] | Tensor


def clip_factors(norms: Tensor) -> tuple[Tensor, Tensor]:
    r"""Norm clipping, Eq. 5: :math:`\tau = \mathrm{median}_k \|g_k\|_2` and :math:`\min(1, \tau / \|g_k\|_2)`.

    Args:
        norms: ``(K,)``.

    Returns:
        ``tau`` (the lower median) and the ``(K,)`` factors; a zero vector has factor 1.

    Example:
        >>> clip_factors(torch.tensor([0.0, 2.0, 8.0]))
        (tensor(2.), tensor([1.0000, 1.0000, 0.2500]))
    """
    tau = norms.median()
    return tau, torch.where(norms > tau, tau / norms, 1.0)


def clip_norms(x: Rows, factors: Sequence[float], out: Tensor) -> Tensor:
    r"""Norm-clipped updates, :math:`c_k = g_k \min(1, \tau / \|g_k\|_2)`, Eq. 5.

    Args:
        x: ``(K, d)``.
        factors: ``K`` numbers from :func:`clip_factors`.
        out: ``(K, d)`` where to write; may be ``x``.

    Returns:
        ``out``.

    Example:
        >>> x = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
        >>> clip_norms(x, [0.5, 1.0], out=torch.empty(2, 2))
        tensor([[1.5000, 2.0000],
                [1.0000, 0.0000]])
    """
    for row, factor, target in zip(x, factors, out, strict=True):
        torch.mul(row, factor, out=target)
    return out


def clamp_bounds(clipped: Tensor) -> Tensor:
    r"""Bounds of coordinate clamping, Eq. 6: :math:`\mu^j = \mathrm{median}_k |c_k^j|`, the lower median.

    Args:
        clipped: ``(K, d)`` norm-clipped updates; used as working memory and left in an undefined state.

    Returns:
        ``(d,)`` non-negative.

    Example:
        >>> clamp_bounds(torch.tensor([[1.0, -2.0], [2.0, -1.0], [-0.5, 3.0]]))
        tensor([1., 2.])
    """
    return lower_median([row.abs_() for row in clipped], overwrite_input=True)


def clamp_magnitudes(x: Rows, bounds: Tensor, out: Tensor) -> Tensor:
    r"""Limit magnitudes to :math:`\mu^j`, keeping signs, Eq. 6.

    Args:
        x: ``(K, d)``.
        bounds: ``(d,)`` non-negative.
        out: ``(K, d)`` where to write; may be ``x``.

    Returns:
        ``out``.

    Example:
        >>> x = torch.tensor([[3.0, -0.5], [-2.0, 0.1]])
        >>> clamp_magnitudes(x, torch.tensor([1.0, 1.0]), out=x)
        tensor([[ 1.0000, -0.5000],
                [-1.0000,  0.1000]])
    """
    lowest = -bounds
    for row, target in zip(x, out, strict=True):
        torch.clamp(row, lowest, bounds, out=target)
    return out


def last_dropped(quantile: float, keep: Keep, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that sparsification at ``quantile`` sets to zero.

    A quantile between two float32 numbers is a float64; rounding it to the nearest one would keep or drop an entry too
    many. This turns both rules into the one question "greater than this?".

    Args:
        quantile: Non-negative.
        keep: ``">="`` keeps entries that equal the quantile, ``">"`` drops them.
        dtype: Of the entries that will be compared.

    Example:
        >>> last_dropped(2.0, ">", torch.float64), last_dropped(2.0, ">=", torch.float64)
        (2.0, 1.9999999999999998)
    """
    nearest = torch.tensor(quantile, dtype=torch.float64).to(dtype)
    # As Python numbers: torch would round the quantile to the type of the tensor before it compares.
    survives = nearest.item() > quantile or (nearest.item() == quantile and keep == ">=")
    return torch.nextafter(nearest, nearest.new_tensor(-math.inf)).item() if survives else nearest.item()


def sparsify(x: Rows, thresholds: Sequence[float], out: Tensor) -> Tensor:
    r"""Keep of each client the entries with :math:`|x_k^j|` above its threshold, Eq. 7, and set the others to zero.

    Args:
        x: ``(K, d)``.
        thresholds: ``K`` numbers, see :func:`last_dropped`; a negative one keeps everything.
        out: ``(K, d)`` where to write; may be ``x``.

    Returns:
        ``out``.

    Example:
        >>> x = torch.tensor([[3.0, -0.5], [-2.0, 0.1]])
        >>> sparsify(x, [1.0, 2.0], out=x)
        tensor([[3., 0.],
                [0., 0.]])
    """
    for row, threshold, target in zip(x, thresholds, out, strict=True):
        # One pass instead of a comparison and a selection.
        torch.hardshrink(row, threshold, out=target)
    return out


def _count_of_ones(x: Tensor) -> Tensor:
    """Sum of zeros and ones: several times faster than counting, and exact, since float32 counts to 2^24."""
    return x.sum() if len(x) <= 1 << 24 and x.dtype == torch.float32 else x.sum(dtype=torch.float64)


def aligned_mean(x: Rows, sign: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean over the clients whose entry has the elected sign, Eq. 4.

    :math:`u^j = \sum_k \delta_k^j x_k^j / \sum_k \delta_k^j` with :math:`\delta_k^j = [s^j x_k^j > 0]`, and 0 where
    nobody is aligned.

    Args:
        x: ``(K, d)``.
        sign: ``(d,)`` of -1, 0 and 1.

    Returns:
        ``u``, ``(d,)``, and how many coordinates of each client are in it, ``(K,)`` int64.

    Example:
        >>> aligned_mean(torch.tensor([[1.0, -2.0], [2.0, 3.0], [-1.0, -3.0]]), torch.tensor([1.0, -1.0]))
        (tensor([ 1.5000, -2.5000]), tensor([2, 1, 1]))
    """
    # In float64 the mean of equal numbers is that number, and the order of the clients does not show.
    total = torch.zeros_like(sign, dtype=torch.float64)
    wide = torch.empty_like(total)
    count, part = torch.zeros_like(sign), torch.empty_like(sign)
    coordinates = []
    for row in x:
        # Widening first is twice as fast as adding numbers of two types.
        total += wide.copy_(torch.mul(row, sign, out=part).relu_())
        count += part.sign_()
        coordinates.append(_count_of_ones(part))
    return total.div_(count.clamp_(min=1)).mul_(sign).to(sign.dtype), torch.stack(coordinates).long()


def contributors_mean(x: Rows) -> tuple[Tensor, Tensor]:
    r"""Mean over the clients whose entry is not zero: :func:`aligned_mean` without an election.

    Args:
        x: ``(K, d)``.

    Returns:
        As :func:`aligned_mean`.

    Example:
        >>> contributors_mean(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, -3.0]]))
        (tensor([ 1.5000, -3.0000]), tensor([1, 1, 1]))
    """
    total = torch.zeros_like(x[0], dtype=torch.float64)
    wide = torch.empty_like(total)
    count, part = torch.zeros_like(x[0]), torch.empty_like(x[0])
    coordinates = []
    for row in x:
        total += wide.copy_(row)
        count += torch.sign(row, out=part).abs_()
        coordinates.append(_count_of_ones(part))
    return total.div_(count.clamp_(min=1)).to(x[0].dtype), torch.stack(coordinates).long()
