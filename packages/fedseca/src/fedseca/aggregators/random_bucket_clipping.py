"""Centred clipping of the means of random buckets."""

from fedseca.aggregators.centered_clipping import CenteredClipping
from fedseca.aggregators.pre_aggregated import PreAggregated
from fedseca.pre_aggregation import Bucketing


class RandomBucketClipping(PreAggregated):
    """:class:`CenteredClipping` behind :class:`fedseca.pre_aggregation.Bucketing`.

    Averaging a few clients first makes honest ones that differ look more alike, so that clipping hurts them less.

    Source: Karimireddy, He, Jaggi, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", ICLR 2022.

    Args:
        tau: Largest step towards a bucket.
        iterations: How often to repeat in one round.
        size: How many uploads share a bucket; the last may hold fewer, and counts as much as the others.
        seed: Of the order of the clients, together with the round.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: As :class:`CenteredClipping`, or ``size`` is less than 1.

    Example:
        >>> import torch
        >>> RandomBucketClipping(tau=1.0, iterations=1)(torch.tensor([[0.0, 0.5]] * 4))
        tensor([0.0000, 0.5000])
    """

    def __init__(self, tau: float = 100.0, iterations: int = 3, size: int = 2, seed: int = 0) -> None:
        super().__init__([Bucketing(size, seed)], CenteredClipping(tau, iterations))
