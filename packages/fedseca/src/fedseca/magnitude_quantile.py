"""The exact quantile of the magnitudes of one long vector, without sorting or copying it."""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedseca.blocks import BLOCK, slices

SAMPLE = 4096
# Up to here selecting among all entries costs less than sampling first (measured).
DIRECT = 32 * SAMPLE
# Half-width of the bracket in standard deviations of the sample's own quantile: wide enough that a miss, which costs
# one full selection but never a wrong result, is a rarity.
DEVIATIONS = 5.0


@lru_cache(maxsize=8)
def _sample_positions(d: int) -> NDArray[np.int64]:
    """Where to look first. Random, since weights have periods that a stride could fall into; seeded, to be the same."""
    return np.sort(np.random.default_rng(d).integers(0, d, SAMPLE))


def _pair(values: NDArray[np.floating], rank: int) -> tuple[float, float]:
    """Values of ranks ``rank`` and ``rank + 1`` (or the last twice); reorders ``values``."""
    # One pivot and a minimum: numpy's fast selection takes a single rank, two of them fall back to a slower one.
    values.partition(rank)
    above = values[rank + 1 :]
    return float(values[rank]), float(above.min() if above.size else values[rank])


def _neighbours_by_bracket(row: NDArray[np.floating], rank: int) -> tuple[float, float]:
    """Magnitudes of two neighbouring ranks: a sample says where to look, a count over all entries makes it exact."""
    d = row.size
    if d <= DIRECT:
        return _pair(np.abs(row), rank)
    sample = np.sort(np.abs(row[_sample_positions(d)]))
    q = (rank + 0.5) / d
    centre, reach = q * SAMPLE, DEVIATIONS * math.sqrt(SAMPLE * q * (1 - q)) + 2
    low = sample[math.floor(centre - reach)] if centre > reach else row.dtype.type(0)
    high = sample[math.ceil(centre + reach)] if centre + reach <= SAMPLE - 1 else row.dtype.type(np.inf)
    below, inside = 0, []
    for columns in slices(d, BLOCK):
        magnitudes = np.abs(row[columns])
        reached = magnitudes >= low
        below += magnitudes.size - np.count_nonzero(reached)
        inside.append(magnitudes[reached & (magnitudes <= high)])
    bracket = np.concatenate(inside)
    if rank >= below and min(rank + 1, d - 1) - below < bracket.size:
        return _pair(bracket, rank - below)
    return _pair(np.abs(row), rank)


def _neighbours_by_sort(row: Tensor, rank: int) -> tuple[float, float]:
    """Magnitudes of two neighbouring ranks where the vector lives, copying back just these."""
    ordered = row.abs().sort().values
    low, high = ordered[[rank, min(rank + 1, len(row) - 1)]].tolist()
    return low, high


def magnitude_quantile(row: Tensor, q: float) -> float:
    r"""The ``q``-quantile of :math:`|x_j|`, interpolated linearly between order statistics.

    With :math:`h = q (d-1)` it is :math:`(1-t) a_{\lfloor h \rfloor} + t\, a_{\lfloor h \rfloor + 1}`, where
    :math:`t = h - \lfloor h \rfloor` and :math:`a` are the sorted magnitudes: the value of
    ``numpy.quantile(abs(row), q)`` in float64. Exact for every length; ``torch.quantile`` stops at 16 million entries.

    Args:
        row: ``(d,)`` finite numbers; read only.
        q: Between 0 and 1.

    Example:
        >>> magnitude_quantile(torch.tensor([-4.0, 1.0, 2.0, -3.0]), 0.5)
        2.5
    """
    position = (len(row) - 1) * q
    rank = math.floor(position)
    t = position - rank
    row = row.detach().to(torch.promote_types(row.dtype, torch.float32))
    low, high = (
        _neighbours_by_bracket(row.numpy(), rank) if row.device.type == "cpu" else _neighbours_by_sort(row, rank)
    )
    # Interpolating from the nearer end is what numpy does, and keeps the last bit in agreement.
    return low + (high - low) * t if t < 0.5 else high - (high - low) * (1 - t)
