"""Walking a (clients, coordinates) matrix in pieces that stay in cache, and reductions over its long side.

Reductions are cut at fixed pieces and added up in float64 in their order. Where a rule cuts its own coordinate-wise
work is therefore free: it cannot change a bit of the result.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shared.errors import UsageError

# The largest vector that torch handles on one thread: waking others for so little costs more than it gives, and on a
# busy machine far more. Shards of 65,536 coordinates are whole numbers of blocks.
BLOCK = 32_768

# Coordinates that are widened to float64 at once: below the length from which BLAS wakes threads for a dot product.
PIECE = 8_192
# A product of K rows this short stays on one thread and in the first cache: a batch of them takes a third of the time
# of one product as long as a block.
NARROW = 256

# Working set of one piece of coordinate-wise work, in matrix entries. On a CPU 16 MB of float32 stay in the last
# cache; an accelerator wants few, large kernels.
CPU_ENTRIES = 1 << 22
ACCELERATOR_ENTRIES = 1 << 24


def chunk_width(rows: int, device: torch.device, chunk: int | None = None) -> int:
    """Coordinates to handle at once: ``chunk`` if given, else what suits ``rows`` rows on ``device``.

    Raises:
        UsageError: ``chunk`` is less than 1.

    Example:
        >>> chunk_width(20, torch.device("cpu"))
        32768
    """
    if chunk is None:
        if device.type == "cpu":
            return min(BLOCK, max(4096, CPU_ENTRIES // rows))
        return max(BLOCK, ACCELERATOR_ENTRIES // rows)
    if chunk < 1:
        raise UsageError(f"chunk must be at least 1 coordinate, got {chunk}")
    return chunk


def slices(d: int, width: int) -> Iterator[slice]:
    """Consecutive slices of ``width`` coordinates that cover ``0 .. d-1``; the last may be shorter.

    Example:
        >>> list(slices(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + width, d)) for start in range(0, d, width))


def _pieces(rows: Sequence[Tensor] | Tensor, less: Tensor | None = None) -> Iterator[NDArray[np.float64]]:
    """The rows (less a vector) in float64, ``PIECE`` coordinates at a time, the last filled up with zeros; on a CPU.

    Memory for one piece serves all of them.
    """
    d = len(rows[0])
    matrix = [_array(row) for row in rows] if not isinstance(rows, Tensor) else _array(rows)
    away = None if less is None else _array(less)
    wide = np.empty((len(rows), PIECE))
    for columns in slices(d, PIECE):
        width = columns.stop - columns.start
        here = wide[:, :width]
        wide[:, width:] = 0
        if isinstance(matrix, np.ndarray) and away is None:
            here[:] = matrix[:, columns]
        else:
            for row, target in zip(matrix, here, strict=True):
                # Differences are those of the rows' own type, as the mean that is made of them.
                target[:] = row[columns] if away is None else row[columns] - away[columns]
        yield wide


def _array(x: Tensor) -> NDArray[np.floating]:
    """The same memory in numpy, which has no bfloat16."""
    x = x.detach()
    return np.asarray((x.float() if x.dtype == torch.bfloat16 else x).numpy())


def _wide_blocks(rows: Sequence[Tensor] | Tensor) -> Iterator[Tensor]:
    """The rows in float64, ``BLOCK`` coordinates at a time; on an accelerator."""
    for columns in slices(len(rows[0]), BLOCK):
        yield torch.stack([row[columns] for row in rows]).double()


def squared_norms(updates: Sequence[Tensor] | Tensor) -> Tensor:
    r""":math:`\|g_k\|_2^2` of every row, in float64.

    Args:
        updates: ``(K, d)`` floating point.

    Returns:
        ``(K,)`` float64; not finite exactly where a row holds NaN or infinity (or overflows float64).

    Example:
        >>> squared_norms(torch.tensor([[3.0, 4.0], [0.0, float("inf")]]))
        tensor([25., inf], dtype=torch.float64)
    """
    if updates[0].is_cuda:
        return torch.stack([x.square().sum(1) for x in _wide_blocks(updates)]).sum(0)
    total = np.zeros(len(updates))
    with np.errstate(all="ignore"):  # rows that are not finite are the caller's to find
        for x in _pieces(updates):
            total += np.vecdot(x, x)
    return torch.from_numpy(total)


def quick_squared_norms(updates: Tensor) -> Tensor:
    r""":math:`\|g_k\|_2^2` of every row in the rows' own type over pieces of 8,192, the pieces summed in float64.

    Less than half the time of :func:`squared_norms`, a relative error of about 1e-6; a row whose squares overflow its
    type is summed again in float64.

    Args:
        updates: ``(K, d)`` floating point.

    Example:
        >>> quick_squared_norms(torch.tensor([[3.0, 4.0], [1e30, 0.0]]))
        tensor([2.5000e+01, 1.0000e+60], dtype=torch.float64)
    """
    if updates.is_cuda or updates.dtype != torch.float32:
        return squared_norms(updates)
    matrix, total = _array(updates), np.zeros(len(updates))
    with np.errstate(all="ignore"):
        for columns in slices(updates.shape[1], PIECE):
            piece = matrix[:, columns]
            total += np.vecdot(piece, piece)
    norms = torch.from_numpy(total)
    lost = ~norms.isfinite()
    if lost.any():
        norms[lost] = squared_norms(updates[lost])
    return norms


def distances_from(center: Tensor, rows: Sequence[Tensor] | Tensor) -> Tensor:
    r""":math:`\|g_k - m\|_2` of every row, in float64.

    Args:
        center: ``(d,)``.
        rows: K vectors of ``d`` numbers.

    Returns:
        ``(K,)``; not finite exactly where a row is not.

    Example:
        >>> distances_from(torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 5.0], [1.0, 1.0]]))
        tensor([5., 0.], dtype=torch.float64)
    """
    if center.is_cuda:
        return torch.stack([torch.linalg.vector_norm(row - center, dtype=torch.float64) for row in rows])
    total = np.zeros(len(rows))
    with np.errstate(all="ignore"):
        for x in _pieces(rows, less=center):
            total += np.vecdot(x, x)
    return torch.from_numpy(np.sqrt(total))


def gram(rows: Sequence[Tensor] | Tensor, others: Sequence[Tensor] | Tensor | None = None) -> Tensor:
    r"""Inner products :math:`\langle g_k, h_l \rangle` of all pairs of rows, multiplied and added in float64.

    Args:
        rows: ``(K, d)`` matrix or K vectors of ``d`` numbers.
        others: ``(L, d)`` likewise; ``None`` takes the rows themselves.

    Returns:
        ``(K, L)`` float64.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        tensor([[ 5.,  1.],
                [ 1., 10.]], dtype=torch.float64)
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([[1.],
                [3.]], dtype=torch.float64)
    """
    shape = (len(rows), len(rows if others is None else others))
    if rows[0].is_cuda:
        products = torch.zeros(shape, dtype=torch.float64, device=rows[0].device)
        for left, right in zip(_wide_blocks(rows), _wide_blocks(rows if others is None else others), strict=True):
            products += left @ right.T
        return products
    sides = ((x, x) for x in _pieces(rows)) if others is None else zip(_pieces(rows), _pieces(others), strict=True)
    total = np.zeros(shape)
    with np.errstate(all="ignore"):
        for x, y in sides:
            narrow, across = (side.reshape(len(side), -1, NARROW).swapaxes(0, 1) for side in (x, y))
            total += (narrow @ across.swapaxes(1, 2)).sum(0)
    return torch.from_numpy(total)


def inner_products(rows: Sequence[Tensor] | Tensor, vector: Tensor) -> Tensor:
    r""":math:`\langle g_k, v \rangle` of every row, multiplied and added in float64.

    Args:
        rows: ``(K, d)`` matrix or K vectors of ``d`` numbers.
        vector: ``(d,)``.

    Returns:
        ``(K,)`` float64.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([2.0, 1.0]))
        tensor([4., 5.], dtype=torch.float64)
    """
    return norms_and_products(rows, vector)[1]


def norms_and_products(rows: Sequence[Tensor] | Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """What :func:`squared_norms` and :func:`inner_products` return, in one pass over the rows.

    Example:
        >>> norms_and_products(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([2.0, 1.0]))
        (tensor([ 5., 10.], dtype=torch.float64), tensor([4., 5.], dtype=torch.float64))
    """
    if vector.is_cuda:
        return squared_norms(rows), gram(rows, vector[None])[:, 0]
    squared, along = np.zeros((2, len(rows)))
    with np.errstate(all="ignore"):
        for x, y in zip(_pieces(rows), _pieces(vector[None]), strict=True):
            squared += np.vecdot(x, x)
            along += np.vecdot(x, y)
    return torch.from_numpy(squared), torch.from_numpy(along)


def combinations(coefficients: Tensor, updates: Tensor, kept: Sequence[int]) -> Tensor:
    r"""Linear combinations of rows, :math:`\sum_k c_{ik}\, g_k`.

    Args:
        coefficients: ``(M, K')``, one column for each row that is used.
        updates: ``(K, d)`` floating point; read only.
        kept: The ``K'`` rows to use, in ascending order; the others are not looked at, finite or not.

    Returns:
        ``(M, d)`` of the type of ``updates``.

    Example:
        >>> updates = torch.tensor([[1.0, 2.0], [3.0, -1.0], [float("nan"), 0.0]])
        >>> combinations(torch.tensor([[0.5, 0.5]]), updates, kept=[0, 1])
        tensor([[2.0000, 0.5000]])
    """
    coefficients = coefficients.to(updates)
    if len(kept) == len(updates):
        return coefficients @ updates
    # Rows that follow each other are multiplied where they lie; gathering the kept ones would copy them.
    breaks = [i for i in range(1, len(kept)) if kept[i] != kept[i - 1] + 1]
    runs = list(zip([0, *breaks], [*breaks, len(kept)], strict=True))
    out = updates.new_zeros(len(coefficients), updates.shape[1])
    for columns in slices(updates.shape[1], BLOCK):
        for first, end in runs:
            out[:, columns].addmm_(coefficients[:, first:end], updates[kept[first] : kept[end - 1] + 1, columns])
    return out


def squared_distances(updates: Tensor, near: float = 1e-6, products: Tensor | None = None) -> Tensor:
    r""":math:`\|g_k - g_l\|_2^2` of all pairs of rows, in float64.

    Computed as :math:`\|g_k\|^2 + \|g_l\|^2 - 2\langle g_k, g_l\rangle`. Where that loses too many digits, namely where
    it is below ``near`` times the sum of the squared norms, the difference itself is squared and summed, so equal rows
    are at distance exactly 0.

    Args:
        updates: ``(K, d)`` floating point. A row that is not finite spoils only its own distances, to itself included.
        near: Fraction of the squared norms below which a pair counts as near.
        products: What :func:`gram` returned for these rows, if it is known already.

    Returns:
        ``(K, K)`` float64, symmetric, zero diagonal (NaN where a row is not finite).

    Example:
        >>> squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]], dtype=torch.float64)
    """
    products = gram(updates) if products is None else products
    norms = products.diagonal()
    sums = norms[:, None] + norms
    squared = sums - 2 * products
    for k, other in torch.nonzero((squared <= near * sums).triu(1)).tolist():
        exact = squared.new_zeros(())
        for columns in slices(updates.shape[1], BLOCK):
            exact += (updates[k, columns].double() - updates[other, columns]).square_().sum()
        squared[k, other] = squared[other, k] = exact
    return squared


def peaks(updates: Tensor) -> Tensor:
    r""":math:`\max_j |g_k^j|` of every row: a quarter of the time of a norm where only finiteness is in question.

    Args:
        updates: ``(K, d)`` floating point.

    Returns:
        ``(K,)``; not finite exactly where a row holds NaN or infinity.

    Example:
        >>> peaks(torch.tensor([[3.0, -4.0], [float("nan"), 0.0]]))
        tensor([4., nan])
    """

    def peak(row: Tensor) -> Tensor:
        pieces = [row] if row.is_cuda else list(row.split(BLOCK))
        extremes = torch.stack([end for piece in pieces for end in torch.aminmax(piece)])
        return extremes.abs_().max()  # NaN wins over every number

    return torch.stack([peak(row) for row in updates])


def finite_clients(norms: Tensor, rule: str) -> list[int]:
    """Rows whose norm is finite: those that a rule may use.

    Args:
        norms: ``(K,)`` peaks, norms, squared norms or distances from a finite point.
        rule: Name of the rule, for the message.

    Raises:
        UsageError: No row is finite.

    Example:
        >>> finite_clients(torch.tensor([1.0, float("nan"), 0.0]), "Krum")
        [0, 2]
    """
    kept = torch.nonzero(torch.isfinite(norms)).flatten().tolist()
    if not kept:
        raise UsageError(f"{rule}: none of the {len(norms)} uploads is finite")
    return kept
