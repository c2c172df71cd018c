"""Walking a (clients, coordinates) matrix in pieces that stay in cache, and reductions over its long side.

Reductions are cut at fixed blocks of :data:`BLOCK` coordinates and added up in float64 in the order of the blocks.
Where a rule cuts its own coordinate-wise work is therefore free: it cannot change a bit of the result.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from shared.errors import UsageError

# The largest vector that torch handles on one thread: waking others for so little costs more than it gives, and on a
# busy machine far more. Shards of 65,536 coordinates are whole numbers of blocks.
BLOCK = 32_768

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


def _sum_over_blocks(reduce: Callable[[Tensor], Tensor], updates: Tensor, shape: tuple[int, ...]) -> Tensor:
    total = torch.zeros(shape, dtype=torch.float64, device=updates.device)
    for columns in slices(updates.shape[1], BLOCK):
        total += reduce(updates[:, columns])
    return total


def squared_norms(updates: Tensor) -> Tensor:
    r""":math:`\|g_k\|_2^2` of every row, in float64.

    Args:
        updates: ``(K, d)`` floating point.

    Returns:
        ``(K,)`` float64; not finite exactly where a row holds NaN or infinity (or overflows float64).

    Example:
        >>> squared_norms(torch.tensor([[3.0, 4.0], [0.0, float("inf")]]))
        tensor([25., inf], dtype=torch.float64)
    """

    def block_norms(x: Tensor) -> Tensor:
        return torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in x]).square_()

    return _sum_over_blocks(block_norms, updates, updates.shape[:1])


def gram(updates: Tensor) -> Tensor:
    r"""Inner products :math:`\langle g_k, g_l \rangle` of all pairs of rows, multiplied and added in float64.

    Args:
        updates: ``(K, d)`` floating point.

    Returns:
        ``(K, K)`` float64.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        tensor([[ 5.,  1.],
                [ 1., 10.]], dtype=torch.float64)
    """
    k = len(updates)
    if updates.device.type != "cpu":
        return _sum_over_blocks(lambda x: x.double() @ x.double().T, updates, (k, k))
    block = torch.zeros(k, BLOCK, dtype=torch.float64)
    narrow = block.numpy().reshape(k, -1, NARROW).swapaxes(0, 1)

    def block_gram(x: Tensor) -> Tensor:
        if x.shape[1] < BLOCK:
            block.zero_()
        for row, target in zip(x, block, strict=True):
            target[: len(row)] = row
        # Rows that are not finite are the caller's to find, on the diagonal.
        with np.errstate(invalid="ignore"):
            return torch.from_numpy((narrow @ narrow.swapaxes(1, 2)).sum(0))

    return _sum_over_blocks(block_gram, updates, (k, k))


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
    k = len(rows)
    total = torch.zeros(k, dtype=torch.float64, device=vector.device)
    if vector.device.type != "cpu":
        for columns in slices(len(vector), BLOCK):
            total += torch.stack([row[columns] for row in rows]).double() @ vector[columns].double()
        return total
    block, other = torch.zeros(k, BLOCK, dtype=torch.float64), torch.zeros(BLOCK, dtype=torch.float64)
    narrow, across = block.numpy().reshape(k, -1, NARROW).swapaxes(0, 1), other.numpy().reshape(-1, NARROW, 1)
    for columns in slices(len(vector), BLOCK):
        width = columns.stop - columns.start
        if width < BLOCK:
            block.zero_()
            other.zero_()
        for row, target in zip(rows, block, strict=True):
            target[:width] = row[columns]
        other[:width] = vector[columns]
        # Rows that are not finite are the caller's to find.
        with np.errstate(invalid="ignore"):
            total += torch.from_numpy((narrow @ across).sum(0)[:, 0])
    return total


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
    out = updates.new_empty(len(coefficients), updates.shape[1])
    for columns in slices(updates.shape[1], BLOCK):
        out[:, columns] = coefficients @ updates[kept, columns]
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
