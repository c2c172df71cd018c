"""Which pairs make the batches of an epoch: captions of similar length together, from (seed, epoch) alone."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DistributedSampler

from shared.federated.seeds import derived_generator

CHUNK = 8
"""Batches within which pairs are sorted by length: enough to save time, too few to make every epoch alike."""


class PairBatch(NamedTuple):
    """A batch of one process.

    Attributes:
        items: Indices of its pairs.
        length: Slots of the longest caption of all processes' batches, so that all cut alike.
    """

    items: list[int]
    length: int


class EpochBatches(DistributedSampler[PairBatch]):
    """Batches of an epoch: every pair once, in an order drawn from the seed and the epoch alone.

    Being a ``DistributedSampler`` it is told the epoch by Lightning, and kept. Several processes share out batches of
    ``processes * batch_size`` pairs evenly, so that all of them have equally many; what does not divide evenly is left
    out of that epoch. With one process that is nothing, but a last batch of a single pair, which has nothing to be told
    from, joins the one before.

    Args:
        lengths: Used slots of the caption of every pair.
        batch_size: Pairs of a batch of one process.
        seed: Of the order.
        bucket: Put captions of similar length together: of :data:`CHUNK` batches' pairs in drawn order, those sorted by
            length are cut into batches, whose order is drawn too.
        shuffle: Draw the order; without it batches are consecutive pairs, on every process all of them.

    Example:
        >>> batches = EpochBatches([9, 3, 8, 4, 9, 3], 2, seed=0)
        >>> sorted((sorted(batch.items), batch.length) for batch in batches)
        [([0, 4], 9), ([1, 5], 3), ([2, 3], 8)]
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, batch_size: int, seed: int, bucket: bool = True, shuffle: bool = True
    ) -> None:
        spread = shuffle and torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if spread else 1
        rank = torch.distributed.get_rank() if spread else 0
        self.lengths = np.asarray(lengths)
        super().__init__(self.lengths, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.bucket = bucket
        self.sizes = batch_sizes(len(self.lengths), batch_size, world, join_last=shuffle)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[PairBatch]:
        for items in self._whole_batches():
            yield PairBatch(items[self.rank :: self.num_replicas].tolist(), int(self.lengths[items].max()))

    def _whole_batches(self) -> list[np.ndarray]:
        """The pairs of all processes, batch by batch; what is smaller than the others comes last."""
        ends = np.cumsum(self.sizes)
        if not self.shuffle:
            return np.split(np.arange(ends[-1]), ends[:-1])
        generator = derived_generator(self.seed, "order", self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).numpy()[: ends[-1]]
        if not self.bucket:
            return np.split(order, ends[:-1])
        batches: list[np.ndarray] = []
        for first in range(0, len(self.sizes), CHUNK):
            stops = ends[first : first + CHUNK]
            start = stops[0] - self.sizes[first]
            chunk = order[start : stops[-1]]
            chunk = chunk[np.argsort(self.lengths[chunk], kind="stable")]
            batches += np.split(chunk, stops[:-1] - start)
        full = [i for i, batch in enumerate(batches) if len(batch) == self.sizes[0]]
        drawn = torch.randperm(len(full), generator=generator).tolist()
        rest = [i for i in range(len(batches)) if len(batches[i]) != self.sizes[0]]
        return [batches[i] for i in [*(full[place] for place in drawn), *rest]]


def batch_sizes(pairs: int, batch_size: int, world: int = 1, join_last: bool = True) -> list[int]:
    """Pairs of each batch of all processes together.

    Args:
        pairs: Of the epoch.
        batch_size: Of one process.
        world: Number of processes.
        join_last: Let a last pair that is alone join the batch before.

    Example:
        >>> batch_sizes(10, 4), batch_sizes(9, 4), batch_sizes(11, 2, world=2)
        ([4, 4, 2], [4, 5], [4, 4, 2])
    """
    whole, rest = divmod(pairs, batch_size * world)
    sizes = [batch_size * world] * whole
    rest -= rest % world
    if rest == 1 and join_last and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes
