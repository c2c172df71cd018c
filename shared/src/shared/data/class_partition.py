"""More divisions of the CIFAR-10 experiments: by class in fixed ways, by chance, by many small virtual clients.

The first four draw nothing: they take items in the order in which they stand. Where the source does not say how an odd
case is meant, the docstring says what is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.data.partition import Partition, column_of, dirichlet, merged, owned
from shared.errors import UsageError


def strided(items: Sequence[np.ndarray], clients: int) -> list[np.ndarray]:
    """Deal each of the index arrays in turn: client ``c`` takes entries ``c, c + K, c + 2K …`` of every one.

    Example:
        >>> [share.tolist() for share in strided([np.array([1, 3, 5]), np.array([0, 2])], 2)]
        [[1, 5, 0], [3, 2]]
    """
    return [np.concatenate([part[client::clients] for part in items]) for client in range(clients)]


def dealt(pieces: Sequence[np.ndarray], clients: int) -> list[np.ndarray]:
    """Deal whole index arrays like cards: client ``c`` takes the ``c``-th, the ``c + K``-th and so on."""
    return [np.concatenate(pieces[client::clients]) for client in range(clients)]


def items_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """The ascending indices of each class that occurs."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def virtual_owners(labels: np.ndarray, shards: int, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """``(N,)`` which of ``shards`` virtual clients owns each item, by :func:`~shared.data.partition.dirichlet`."""
    owner = np.empty(len(labels), np.int64)
    for shard, items in enumerate(dirichlet(labels, shards, alpha, rng)):
        owner[items] = shard
    return owner


@dataclass(frozen=True)
class Strided(Partition):
    """Equal classes without a draw: of each class, client ``c`` takes items ``c, c + K, c + 2K …``.

    Args:
        min_size: The fewest items that a client may own.
    """

    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        return strided(items_by_class(labels), clients)


@dataclass(frozen=True)
class ClassChunks(Partition):
    """Half mixed: each class is cut into ``chunks``, and the list of all chunks is dealt with stride K.

    Args:
        chunks: Pieces of a class.
        min_size: The fewest items that a client may own.
    """

    chunks: int = 4
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        if self.chunks < 1:
            raise UsageError(f"data.partition.chunks must be at least 1, got {self.chunks}")
        pieces = [piece for items in items_by_class(labels) for piece in np.array_split(items, self.chunks)]
        if len(pieces) < clients:
            raise UsageError(f"data.clients must be at most the {len(pieces)} chunks of all classes, got {clients}")
        return dealt(pieces, clients)


@dataclass(frozen=True)
class ClassGroups(Partition):
    """Half pure: groups of clients share the same classes, and no class is in two groups.

    Clients ``0 .. n-1`` are the first group, and so on; the last may be smaller. The ``i``-th class goes to group
    ``i mod G`` and is dealt among its clients with stride.

    Args:
        per_group: ``n``, clients of one group.
        min_size: The fewest items that a client may own.
    """

    per_group: int = 2
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        if self.per_group < 1:
            raise UsageError(f"data.partition.per_group must be at least 1, got {self.per_group}")
        groups = -(-clients // self.per_group)
        classes = items_by_class(labels)
        if len(classes) < groups:
            raise UsageError(
                f"data.partition.per_group must leave at most {len(classes)} groups, one per class, "
                f"got {groups} groups of {self.per_group} for {clients} clients"
            )
        shares: list[np.ndarray] = []
        for group in range(groups):
            members = min(self.per_group, clients - len(shares))
            shares += strided(classes[group::groups], members)
        return shares


@dataclass(frozen=True)
class WholeClasses(Partition):
    """Not mixed at all: the ``i``-th class goes to client ``i mod K`` as a whole.

    Args:
        min_size: The fewest items that a client may own.
    """

    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        classes = items_by_class(labels)
        if len(classes) < clients:
            raise UsageError(f"data.clients must be at most {len(classes)}, the number of classes, got {clients}")
        return dealt(classes, clients)


@dataclass(frozen=True)
class RandomOwner(Partition):
    """Every item goes to a client drawn uniformly, by NumPy's legacy generator with a seed of its own.

    ``data.seed`` has no part in it, so that the division is the same in all runs.

    Args:
        seed: Of the draw.
        min_size: The fewest items that a client may own.
    """

    seed: int = 100
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        # The legacy stream is the one whose numbers NumPy promises never to change.
        return owned(np.random.RandomState(self.seed).randint(clients, size=len(labels)), clients)


@dataclass(frozen=True)
class MergedShards(Partition):
    """A column says which of ``shards`` virtual clients owns an item; neighbours are merged into K.

    See :func:`~shared.data.partition.merged`.

    Unlike :class:`~shared.data.partition.ByColumn` it counts shards that own nothing, so that the same shard belongs to
    the same client in every part of the data.

    Args:
        column: The column's name; ``y_alpha_id`` holds the middle one of three levels of unevenness.
        shards: ``V``, the number of virtual clients.
        min_size: The fewest items that a client may own.
    """

    column: str = "y_alpha_id"
    shards: int = 100
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        _check_shards(self.shards, clients)
        owner = column_of(columns, self.column)
        if owner.dtype.kind not in "iu" or owner.min() < 0 or owner.max() >= self.shards:
            raise UsageError(
                f"data.partition.shards must cover column {self.column!r}, integers in 0..{self.shards - 1}, "
                f"which holds {owner.min()} to {owner.max()}"
            )
        return merged(owner, self.shards, clients)


@dataclass(frozen=True)
class MergedDirichlet(Partition):
    """:func:`~shared.data.partition.dirichlet` among ``shards`` virtual clients, neighbours merged into K.

    What :class:`MergedShards` reads where nobody has drawn it yet. Merging evens out: K clients of ``shards / K``
    virtual ones each have the proportions of a Dirichlet draw with ``alpha * shards / K``.

    Args:
        alpha: Concentration of the draw among the virtual clients, positive.
        shards: ``V``, the number of virtual clients.
        min_size: The fewest items that a client may own.
    """

    alpha: float = 1.0
    shards: int = 100
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        _check_shards(self.shards, clients)
        return merged(virtual_owners(labels, self.shards, self.alpha, rng), self.shards, clients)

    def owners(self, labels: np.ndarray, clients: int, rng: np.random.Generator) -> np.ndarray:
        """``(N,)`` the virtual client of each item, in the draw that a call with an equal generator settles on."""
        while True:
            owner = virtual_owners(labels, self.shards, self.alpha, rng)
            if min(map(len, merged(owner, self.shards, clients))) >= self.min_size:
                return owner


def _check_shards(shards: int, clients: int) -> None:
    if shards < clients:
        raise UsageError(f"data.partition.shards must be at least the number of clients, {clients}, got {shards}")
