"""What several processes need that Lightning does not bring."""

from collections.abc import Sized

from torch.utils.data import Dataset, DistributedSampler


class WholeOnEveryRank(DistributedSampler[int]):
    """All items in order on every rank, for evaluation: exact metrics without gathering.

    Lightning replaces the sampler of an evaluation loader by one that shards the items and repeats some of them to
    make the shards equal, unless the loader's sampler already is a ``DistributedSampler``. This one is, of a world
    with a single rank.

    Args:
        dataset: The items.
    """

    def __init__(self, dataset: Dataset[object] | Sized) -> None:
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
