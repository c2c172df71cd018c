"""What an attacker who sees every upload makes of them: whom it imitates, their statistics, and its own strength."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fedseca.blocks import chunk_width, slices
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack

BenignSet = Literal["all", "honest"]


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


class Omniscient(Attack, ABC):
    """An attack made of the mean of the benign set, and of what else its subclass asks for.

    Args:
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.

    Raises:
        UsageError: ``benign_set`` is neither of the two; from the call, if nobody is benign.
    """

    def __init__(self, benign_set: BenignSet) -> None:
        super().__init__()
        if benign_set not in get_args(BenignSet):
            choices = ", ".join(get_args(BenignSet))
            raise UsageError(f"{type(self).__name__}: benign_set must be one of {choices}, got {benign_set!r}")
        self.benign_set: BenignSet = benign_set

    def forward(
        self,
        updates: Tensor,
        *,
        byzantine: Sequence[int],
        client_ids: Sequence[int],
        origin: Tensor | None = None,
        round: int = 0,
        aggregator: VectorAggregator | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        rows = benign_rows(len(updates), byzantine, self.benign_set)
        ids = [client_ids[k] for k in byzantine]
        context = {"byzantine": byzantine, "client_ids": client_ids, "origin": origin, "round": round}
        return self.craft(updates, rows, mean_over(updates, rows), ids, aggregator=aggregator, **context)

    @abstractmethod
    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **context: Any) -> Tensor:
        """Craft the hostile uploads.

        Args:
            updates: ``(K, d)``; read only.
            rows: Those of the benign set.
            mean: ``(d,)`` over them.
            ids: The ``B`` hostile clients.
            context: All else that :meth:`shared.federated.attack.Attack.forward` is told.

        Returns:
            ``(B, d)``.
        """


class Jittered(Omniscient):
    """Hostile clients that each attack with a strength of their own, so that their uploads are not equal.

    Args:
        jitter: Each adds its own constant from U(-jitter, jitter), see :func:`jittered`.
        benign_set: As in :class:`Omniscient`.
        seed: Of the jitter.

    Raises:
        UsageError: ``jitter`` is negative, or as in :class:`Omniscient`.
    """

    def __init__(self, jitter: float, benign_set: BenignSet, seed: int) -> None:
        super().__init__(benign_set)
        if jitter < 0:
            raise UsageError(f"{type(self).__name__}: jitter must not be negative, got {jitter}")
        self.jitter = jitter
        self.seed = seed

    def spread(self, base: Tensor, direction: Tensor, strength: float, ids: Sequence[int]) -> Tensor:
        """``(B, d)``, ``base`` plus each client's own strength times ``direction``, both ``(d,)``."""
        crafted = base.new_empty(len(ids), len(base))
        for row, client in zip(crafted, ids, strict=True):
            torch.add(base, direction, alpha=jittered(strength, self.jitter, self.seed, client), out=row)
        return crafted
