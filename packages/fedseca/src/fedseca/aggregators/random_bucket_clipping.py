"""Centred clipping of the means of random buckets."""

from torch import Tensor

from fedseca.aggregators.centered_clipping import CenteredClipping
from fedseca.pre_aggregation import Bucketing


class RandomBucketClipping(CenteredClipping):
    """:class:`CenteredClipping` behind :class:`fedseca.pre_aggregation.Bucketing`, without forming the buckets' means.

    Averaging a few clients first makes honest ones that differ look more alike, so that clipping hurts them less.

    Source: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022.

    Args:
        tau: Largest step towards a bucket.
        iterations: How often to repeat in one round.
        size: How many uploads share a bucket; the last may hold fewer, and counts as much as the others.
        seed: Of the order of the clients, together with the round.

    Attributes:
        center: ``(d,)`` the last update; ``None`` before the first round.
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: As :class:`CenteredClipping`, or ``size`` is less than 1.

    Example:
        >>> import torch
        >>> RandomBucketClipping(tau=1.0, iterations=1)(torch.tensor([[0.0, 0.5]] * 4))
        tensor([0.0000, 0.5000])
    """

    def __init__(self, tau: float = 100.0, iterations: int = 3, size: int = 2, seed: int = 0) -> None:
        super().__init__(tau, iterations)
        self.bucketing = Bucketing(size, seed)

    def move(self, center: Tensor, points: Tensor, products: Tensor, round: int) -> Tensor:
        """As the base class, towards the means of buckets."""
        return super().move(center, self.bucketing.mixing(len(points), round).to(points) @ points, products, round)
