"""The order of an epoch and the seed of every item, from (seed, epoch, item) alone."""

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import DistributedSampler

from shared.data.prepared_images import Draw
from shared.federated.seeds import derived_generator, derived_seed

SEED = 73
"""The seed of data that are given none."""


class EpochDraws(DistributedSampler[Draw]):
    """Every item once, or a fixed number of items, each with the seed of its augmentation.

    Item ``i`` of epoch ``e`` has a seed of its own whatever the order, the batch, the worker or the rank it falls to,
    so a run of 2 + 2 epochs is a run of 4. Being a ``DistributedSampler`` it is told the epoch by Lightning, and kept.

    Args:
        items: What is drawn from.
        seed: Of order and augmentation.
        shuffle: Also draw the order; without it the order is the items' own and every epoch is epoch 0.
        count: Items of an epoch: so many of them, or all of them again and again, each round in an order of its own;
            ``None``: every item once.
    """

    def __init__(self, items: Sized, seed: int, shuffle: bool = True, count: int | None = None) -> None:
        spread = shuffle and torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if spread else 1
        rank = torch.distributed.get_rank() if spread else 0
        super().__init__(items, num_replicas=world, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.items = len(items)
        self.count = len(items) if count is None else count

    def __len__(self) -> int:
        # What does not divide evenly is left out of this epoch; with one process that is nothing.
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch if self.shuffle else 0
        order = torch.arange(self.count) % self.items
        if self.shuffle:
            rounds = [self._order(epoch, number) for number in range(-(-self.count // self.items))]
            order = torch.cat(rounds)[: self.count]
        for place in range(self.rank, len(self) * self.num_replicas, self.num_replicas):
            item, again = int(order[place]), place // self.items
            yield Draw(item, derived_seed(self.seed, "item", epoch, item, *([again] if again else [])))

    def _order(self, epoch: int, number: int) -> torch.Tensor:
        path = [epoch, number] if number else [epoch]
        return torch.randperm(self.items, generator=derived_generator(self.seed, "order", *path))
