"""Who owns what: dividing the training items among clients."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shared.errors import UsageError

_DRAWS = 100


def shuffled_by_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """All indices, class after class, those of a class in random order."""
    order = rng.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")]


def iid(labels: np.ndarray, clients: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal the shuffled items of one class after the other, like cards.

    Sizes differ by at most one, and so does each class between clients.
    """
    by_class = shuffled_by_class(labels, rng)
    return [by_class[client::clients] for client in range(clients)]


def dirichlet(labels: np.ndarray, clients: int, alpha: float, rng: np.random.Generator) -> list[np.ndarray]:
    r"""Divide every class by its own draw :math:`p_c \sim \mathrm{Dir}(\alpha 1_K)`.

    Client ``k`` gets the shuffled items of class ``c`` between :math:`n_c \sum_{j<k} p_{cj}` and
    :math:`n_c \sum_{j \le k} p_{cj}`, both rounded. Small ``alpha`` gives clients of few classes, large ``alpha``
    approaches :func:`iid`. Source: Hsu, Qi, Brown, *Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification*, 2019, in the per-class form of Yurochkin et al., ICML 2019.

    Raises:
        UsageError: ``alpha`` is not a positive number.
    """
    if not 0 < alpha < math.inf:
        raise UsageError(f"data.partition.alpha must be a positive number, got {alpha}")
    shares: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        items = rng.permutation(np.flatnonzero(labels == label))
        edges = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1]
        for share, part in zip(shares, np.split(items, np.rint(edges * len(items)).astype(np.int64)), strict=True):
            share.append(part)
    return [np.concatenate(share) for share in shares]


def shards(labels: np.ndarray, clients: int, per_client: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Sort by class, cut into ``clients * per_client`` equal shards, give each client ``per_client`` random ones.

    Source: McMahan et al., *Communication-Efficient Learning of Deep Networks from Decentralized Data*, AISTATS 2017.
    """
    pieces = np.array_split(shuffled_by_class(labels, rng), clients * per_client)
    dealt = rng.permutation(len(pieces)).reshape(clients, per_client)
    return [np.concatenate([pieces[piece] for piece in row]) for row in dealt]


def owned(owner: np.ndarray, clients: int) -> list[np.ndarray]:
    """The items of each client, where ``owner`` names the client of each item."""
    return [np.flatnonzero(owner == client) for client in range(clients)]


def merged(owner: np.ndarray, virtual: int, clients: int) -> list[np.ndarray]:
    r"""Give client :math:`\lfloor s K / V \rfloor` the items of virtual client ``s`` of ``V``.

    Example:
        >>> [share.tolist() for share in merged(np.array([0, 3, 1, 2]), virtual=4, clients=2)]
        [[0, 2], [1, 3]]
    """
    return owned(owner * clients // virtual, clients)


def by_value(values: np.ndarray, clients: int) -> list[np.ndarray]:
    """Take the sorted values for virtual clients, and merge these as :func:`merged` does."""
    distinct, rank = np.unique(values, return_inverse=True)
    return merged(rank, len(distinct), clients)


def column_of(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The column that ``data.partition.column`` names.

    Raises:
        UsageError: The data have no such column.
    """
    if name not in columns:
        raise UsageError(
            f"data.partition.column must name a column of the data, got {name!r} of {', '.join(columns) or 'none'}"
        )
    return columns[name]


class Partition(ABC):
    """A rule that divides items among clients; equal generators give equal shares.

    Attributes:
        min_size: The fewest items that a client may own. Two by default, since batches of one item are left out.
    """

    min_size: int

    def __call__(
        self,
        labels: np.ndarray,
        clients: int,
        rng: np.random.Generator,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Divide ``len(labels)`` items; random rules draw again until every client owns ``min_size`` of them.

        Args:
            labels: ``(N,)`` integer classes.
            clients: Number of clients K.
            rng: Source of randomness.
            columns: Further facts of each item, for rules that divide by one of them.

        Returns:
            K disjoint arrays of ascending int64 indices that together cover ``0 .. N-1``.

        Raises:
            UsageError: An option is out of range, or no draw gave every client enough.
        """
        if clients < 1:
            raise UsageError(f"data.clients must be at least 1, got {clients}")
        if self.min_size < 1:
            raise UsageError(f"data.partition.min_size must be at least 1, got {self.min_size}")
        if len(labels) < clients * self.min_size:
            raise UsageError(
                f"data.clients must leave every client {self.min_size} items (data.partition.min_size), "
                f"got {clients} clients for {len(labels)} items"
            )
        smallest = 0
        for _ in range(_DRAWS):
            shares = self.draw(labels, clients, rng, columns or {})
            smallest = max(smallest, min(map(len, shares)))
            if smallest >= self.min_size:
                return [np.sort(share).astype(np.int64) for share in shares]
        raise UsageError(
            f"data.partition.min_size must be within reach of {self}, "
            f"but the smallest of {clients} clients never owned more than {smallest} items"
        )

    def client_names(self, clients: int, columns: Mapping[str, np.ndarray]) -> list[str]:
        """What the clients are called in tables; numbers, where nothing more is known of them."""
        return [str(client) for client in range(clients)]

    @abstractmethod
    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """One attempt: K disjoint index arrays that cover all items."""


@dataclass(frozen=True)
class IID(Partition):
    """Equal shares with equal classes, see :func:`iid`.

    Args:
        min_size: The fewest items that a client may own.
    """

    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        return iid(labels, clients, rng)


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Uneven classes, see :func:`dirichlet`.

    Args:
        alpha: Concentration, positive; 0.1 is hard, 1 usual, 100 almost even.
        min_size: The fewest items that a client may own.
    """

    alpha: float = 1.0
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        return dirichlet(labels, clients, self.alpha, rng)


@dataclass(frozen=True)
class Shards(Partition):
    """Few classes per client and equal sizes, see :func:`shards`.

    Args:
        per_client: Shards, and so at most about as many classes, per client.
        min_size: The fewest items that a client may own.
    """

    per_client: int = 2
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        if self.per_client < 1:
            raise UsageError(f"data.partition.per_client must be at least 1, got {self.per_client}")
        return shards(labels, clients, self.per_client, rng)


@dataclass(frozen=True)
class ByColumn(Partition):
    """One client per value of a column (hospital, machine), see :func:`by_value`.

    Args:
        column: The column's name.
        merge: Allow fewer clients than values; neighbouring values then share a client, as when 100 virtual clients
            are merged into 5.
        min_size: The fewest items that a client may own.
    """

    column: str = "center"
    merge: bool = False
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        values = column_of(columns, self.column)
        distinct = len(np.unique(values))
        if distinct < clients or (distinct > clients and not self.merge):
            raise UsageError(
                f"data.clients must be {distinct}, the number of values of column {self.column!r}"
                f"{' (fewer with data.partition.merge)' if distinct > clients else ''}, got {clients}"
            )
        return by_value(values, clients)

    def client_names(self, clients: int, columns: Mapping[str, np.ndarray]) -> list[str]:
        """With the value that each client stands for."""
        values = np.unique(column_of(columns, self.column))
        if len(values) > clients:
            return super().client_names(clients, columns)
        return [f"{client} ({value})" for client, value in enumerate(values)]
