"""What an attacker who sees every upload makes of them: whom it imitates, their statistics, and its own strength."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fedseca.blocks import chunk_width, slices
from shared.errors import UsageError

BenignSet = Literal["all", "honest"]


def check_benign_set(attack: str, benign_set: str) -> None:
    """Refuse what is not a :data:`BenignSet`.

    Raises:
        UsageError: It is none of the two.
    """
    if benign_set not in get_args(BenignSet):
        raise UsageError(f"{attack}: benign_set must be one of {', '.join(get_args(BenignSet))}, got {benign_set!r}")


def check_jitter(attack: str, jitter: float) -> None:
    """Refuse a negative jitter.

    Raises:
        UsageError: It is negative.
    """
    if jitter < 0:
        raise UsageError(f"{attack}: jitter must not be negative, got {jitter}")


def known_origin(attack: str, origin: Tensor | None) -> Tensor:
    """The global vector, for attacks that are made of weights.

    Raises:
        UsageError: It was not given.
    """
    if origin is None:
        raise UsageError(f"{attack} needs origin, the global vector before the round, got none")
    return origin


def benign_rows(clients: int, byzantine: Sequence[int], benign_set: BenignSet) -> list[int]:
    """Rows over which an attacker takes statistics.

    Args:
        clients: Number of rows.
        byzantine: Hostile rows.
        benign_set: ``all`` (hostile clients train honestly first, and count) or ``honest``.

    Raises:
        UsageError: Nobody is left.

    Example:
        >>> benign_rows(4, [1, 2], "honest")
        [0, 3]
    """
    rows = [k for k in range(clients) if benign_set == "all" or k not in byzantine]
    if not rows:
        raise UsageError(f"benign_set=honest needs an honest client, got none among {clients}")
    return rows


def mean_over(updates: Tensor, rows: Sequence[int], chunk: int | None = None) -> Tensor:
    """Mean over some rows, added up in float64, for each coordinate; memory for one slice at a time.

    Args:
        updates: ``(K, d)``; read only.
        rows: Which of them.
        chunk: Coordinates handled at once; any value gives the same bits.

    Returns:
        ``(d,)``.

    Example:
        >>> mean_over(torch.tensor([[1.0], [3.0], [100.0]]), [0, 1])
        tensor([2.])
    """
    mean = torch.empty_like(updates[0])
    for columns in slices(len(mean), chunk_width(len(rows), mean.device, chunk)):
        total = torch.zeros_like(mean[columns], dtype=torch.float64)
        for k in rows:
            total += updates[k, columns]
        mean[columns] = total.div_(len(rows))
    return mean


def std_over(updates: Tensor, rows: Sequence[int], mean: Tensor, chunk: int | None = None) -> Tensor:
    """Unbiased standard deviation over some rows, for each coordinate; memory for one slice at a time.

    Args:
        updates: ``(K, d)``; read only.
        rows: Which of them, two at least.
        mean: ``(d,)`` what :func:`mean_over` returned for them.
        chunk: Coordinates handled at once; any value gives the same bits.

    Returns:
        ``(d,)``.

    Raises:
        UsageError: Fewer than two rows have no standard deviation.

    Example:
        >>> std_over(torch.tensor([[1.0], [3.0], [100.0]]), [0, 1], torch.tensor([2.0]))
        tensor([1.4142])
    """
    if len(rows) < 2:
        raise UsageError(f"a standard deviation over clients needs at least 2 of them, got {len(rows)}")
    std = torch.empty_like(mean)
    for columns in slices(len(mean), chunk_width(len(rows), mean.device, chunk)):
        spread = torch.zeros_like(mean[columns], dtype=torch.float64)
        for k in rows:
            spread += (updates[k, columns] - mean[columns]).square_()
        std[columns] = spread.div_(len(rows) - 1).sqrt_()
    return std


def unit(vector: Tensor) -> Tensor:
    """A vector scaled to Euclidean length 1; the zero vector, which has no direction, stays zero.

    Example:
        >>> unit(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
        >>> unit(torch.zeros(2))
        tensor([0., 0.])
    """
    length = float(torch.linalg.vector_norm(vector, dtype=torch.float64))
    return vector / (length or 1.0)


def jittered(strength: float, jitter: float, seed: int, client_id: int) -> float:
    r"""A client's own strength, :math:`s + U(-\mathrm{jitter}, \mathrm{jitter})`.

    It depends on ``seed`` and ``client_id`` alone: not on the round, the other clients or their order.

    Example:
        >>> jittered(1.3, 0.0, seed=0, client_id=3)
        1.3
        >>> jittered(1.3, 0.05, seed=0, client_id=3) == jittered(1.3, 0.05, seed=0, client_id=4)
        False
    """
    return strength + np.random.default_rng(np.random.SeedSequence([seed, client_id])).uniform(-jitter, jitter)
