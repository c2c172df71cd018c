"""Centred clipping bucket after bucket, each mixing clients from all along the range of agreement."""

import torch
from torch import Tensor

from fedseca.aggregators.centered_clipping import CenteredClipping
from shared.errors import UsageError
from shared.federated.seeds import derived_generator


def sequential_buckets(agreement: Tensor, size: int, generator: torch.Generator) -> list[list[int]]:
    r"""Buckets with one client from each run of the order by agreement.

    Sort the clients by agreement, ascending, ties by the lowest; cut the order into runs of :math:`L=\lceil K/s\rceil`;
    shuffle each run; bucket i takes the i-th of every run that has one.

    Args:
        agreement: ``(K,)``.
        size: s, how many runs at most, and so how many clients share a bucket.
        generator: Of the shuffles.

    Returns:
        L buckets of at most s clients.

    Example:
        >>> sequential_buckets(torch.tensor([0.3, -1.0]), 2, torch.Generator())
        [[1, 0]]
    """
    order = agreement.cpu().argsort(stable=True)
    runs = [run[torch.randperm(len(run), generator=generator)].tolist() for run in order.split(-(-len(order) // size))]
    return [[run[i] for run in runs if i < len(run)] for i in range(len(runs[0]))]


class SequentialBucketClipping(CenteredClipping):
    r"""Centred clipping in which one bucket of clients after the other moves the centre.

    Clients are sorted by the cosine between their upload and the last update, and each bucket takes one from every part
    of that order (:func:`sequential_buckets`), so that colluding clients do not meet in one bucket. Each bucket repeats
    :math:`m \leftarrow m + \mathrm{mean}_{k} (g_k - m) \min(1, \tau / \|g_k - m\|_2)`. In the first round the last
    update is zero, all cosines count as 0, and clients stand in the order of their ids. Uploads that hold NaN or
    infinity are left out.

    Source: Ozfatura et al., "Byzantines can also Learn from History: Fall of Centered Clipping in Federated Learning",
    IEEE Transactions on Information Forensics and Security 2024, Algorithm 3.

    Args:
        tau: Largest step towards a client.
        iterations: How often each bucket repeats.
        size: How many clients share a bucket.
        seed: Of the shuffles, together with the round.

    Attributes:
        center: ``(d,)`` the last update; ``None`` before the first round.
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: As :class:`CenteredClipping`, or ``size`` is less than 1.

    Example:
        >>> SequentialBucketClipping(tau=1.0)(torch.tensor([[0.0, 3.0], [0.0, 3.0]]))
        tensor([0., 1.])
    """

    def __init__(self, tau: float = 100.0, iterations: int = 1, size: int = 2, seed: int = 0) -> None:
        super().__init__(tau, iterations)
        if size < 1:
            raise UsageError(f"SequentialBucketClipping: size must be at least 1, got {size}")
        self.size = size
        self.seed = seed

    def move(self, center: Tensor, points: Tensor, products: Tensor, round: int) -> Tensor:
        """As the base class, bucket after bucket."""
        norms = products.diagonal()[:-1].sqrt()
        # The length of the centre is common to all and orders nobody.
        agreement = torch.where(norms > 0, products[:-1, -1] / norms, 0.0)
        for bucket in sequential_buckets(
            agreement, self.size, derived_generator(self.seed, "sequential buckets", round)
        ):
            center = super().move(center, points[bucket], products, round)
        return center
