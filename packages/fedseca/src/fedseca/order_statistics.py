"""Order statistics across clients: the r-th smallest of K values, for every coordinate at once.

``torch.median`` and ``torch.sort`` treat each of the d columns on its own. A sorting network does the same comparisons
for all columns, so it runs as whole-row minima and maxima, which vectorise; the comparisons that the wanted ranks do
not depend on are left out.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fedseca.blocks import chunk_width, slices

# Below this the network was measured to take less CPU time than sorting each column; it grows as n log^2 n.
SORT_FROM = 2048


class Comparator(NamedTuple):
    """Puts the smaller of two wires on ``low`` and the larger on ``high``, as far as later steps read them."""

    low: int
    high: int
    keep_low: bool
    keep_high: bool


def _odd_even_merge_sort(n: int) -> Iterator[tuple[int, int]]:
    """Batcher's comparators for ``n`` wires, in order; for n not a power of two, those of the next one that exist."""
    p = 1
    while p < n:
        k = p
        while k >= 1:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        yield i + j, i + j + k
            k //= 2
        p *= 2


@lru_cache(maxsize=64)
def selection_network(n: int, ranks: tuple[int, ...]) -> tuple[Comparator, ...]:
    """The part of Batcher's odd-even merge sort of ``n`` wires that the wanted ``ranks`` depend on.

    Source: K. E. Batcher, "Sorting networks and their applications", AFIPS 1968; the pruning walks from the outputs
    back to the inputs.

    Args:
        n: Number of values.
        ranks: Wanted ranks, 0 for the smallest.

    Returns:
        Comparators in order; after them wire ``r`` holds the value of rank ``r`` for every wanted ``r``.

    Example:
        >>> selection_network(3, (0,))
        (Comparator(low=0, high=1, keep_low=True, keep_high=False), Comparator(low=0, high=2, keep_low=True, \
keep_high=False))
    """
    wanted = set(ranks)
    network = []
    for low, high in reversed(list(_odd_even_merge_sort(n))):
        if low in wanted or high in wanted:
            network.append(Comparator(low, high, low in wanted, high in wanted))
            wanted |= {low, high}
    return tuple(reversed(network))


def _run(network: Sequence[Comparator], wires: list[Tensor], owned: list[bool], spare: list[Tensor]) -> None:
    """Send vectors through a network, writing only to wires it owns and to ``spare`` vectors, which grow as needed."""
    for low, high, keep_low, keep_high in network:
        a, b = wires[low], wires[high]
        if keep_low:
            wires[low] = torch.minimum(a, b, out=spare.pop() if spare else torch.empty_like(a))
        if keep_high:
            # Nothing reads b after this, so the maximum may take its place.
            wires[high] = torch.maximum(a, b, out=b if owned[high] else spare.pop() if spare else torch.empty_like(b))
        elif owned[high]:
            spare.append(b)
        if owned[low]:
            spare.append(a)
        owned[low], owned[high] = keep_low, keep_high


def order_statistics(
    rows: Sequence[Tensor] | Tensor, ranks: Sequence[int], chunk: int | None = None, overwrite_input: bool = False
) -> Tensor:
    """Values of the wanted ranks among K numbers, for each of d coordinates.

    Args:
        rows: ``(K, d)`` matrix or K vectors of ``d`` finite numbers; read only.
        ranks: ``(R,)`` wanted ranks, 0 for the smallest, ``K-1`` for the largest.
        chunk: Coordinates handled at once; ``None`` fits the cache. Any value gives the same bits.
        overwrite_input: Use the rows as working memory; they are left in an undefined state.

    Returns:
        ``(R, d)``, row ``i`` holds the values of rank ``ranks[i]``.

    Example:
        >>> order_statistics(torch.tensor([[3.0, 1.0], [1.0, 2.0], [2.0, 9.0]]), [0, 2])
        tensor([[1., 1.],
                [3., 9.]])
    """
    rows = list(rows)
    n, d = len(rows), len(rows[0])
    out = rows[0].new_empty(len(ranks), d)
    network = selection_network(n, tuple(ranks)) if n < SORT_FROM else None
    spare: list[Tensor] = []
    for columns in slices(d, chunk_width(n, out.device, chunk)):
        wires = [row[columns] for row in rows]
        if network is None:
            out[:, columns] = torch.stack(wires, 1).sort(1).values[:, list(ranks)].T
            continue
        if spare and len(spare[0]) != len(wires[0]):
            spare.clear()
        owned = [overwrite_input] * n
        _run(network, wires, owned, spare)
        for target, rank in zip(out, ranks, strict=True):
            target[columns] = wires[rank]
        if not overwrite_input:
            spare += [wire for wire, mine in zip(wires, owned, strict=True) if mine]
    return out


def lower_median(rows: Sequence[Tensor] | Tensor, chunk: int | None = None, overwrite_input: bool = False) -> Tensor:
    """Median across K vectors for each coordinate; of an even number of values the lower of the two middle ones.

    Args:
        rows: ``(K, d)`` matrix or K vectors of ``d`` finite numbers; read only.
        chunk: Coordinates handled at once; any value gives the same bits.
        overwrite_input: Use the rows as working memory; they are left in an undefined state.

    Returns:
        ``(d,)``, bit for bit what ``torch.median(rows, dim=0).values`` holds.

    Example:
        >>> lower_median(torch.tensor([[4.0], [1.0], [3.0], [2.0]]))
        tensor([2.])
    """
    return order_statistics(rows, [(len(rows) - 1) // 2], chunk, overwrite_input)[0]
