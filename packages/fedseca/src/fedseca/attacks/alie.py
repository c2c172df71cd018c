"""ALIE, "A Little Is Enough": hide inside the spread of the honest uploads."""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from fedseca.attacks.omniscience import (
    BenignSet,
    benign_rows,
    check_benign_set,
    check_jitter,
    jittered,
    mean_over,
    std_over,
)
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack


def alie_z(clients: int, hostile: int) -> float:
    r"""The largest deviation with which hostile clients still win a majority against the honest ones.

    With :math:`s = \lfloor K/2 + 1 \rfloor - B` supporters to win over,
    :math:`z = \Phi^{-1}\big(\frac{K - B - s}{K - B}\big)`.

    Args:
        clients: ``K``.
        hostile: ``B``.

    Raises:
        UsageError: The fraction is not between 0 and 1: there are too many hostile clients, or none honest enough.

    Example:
        >>> round(alie_z(5, 2), 6), round(alie_z(10, 1), 6)
        (0.430727, -0.13971)
    """
    honest = clients - hostile
    left = honest - (clients // 2 + 1 - hostile)
    if not 0 < left < honest:
        raise UsageError(f"ALIE has no z of its own for {hostile} hostile of {clients} clients: set z")
    return NormalDist().inv_cdf(left / honest)


class ALIE(Attack):
    r"""All hostile clients upload :math:`\mathrm{mean} - z\,\mathrm{std}`, coordinate by coordinate.

    Mean and (unbiased) standard deviation are over the honestly trained updates of the benign set.

    Source: Baruch, Baruch, Goldberg, "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS
    2019, Algorithm 3.

    Args:
        z: How many standard deviations to move; ``None`` or 0 takes :func:`alie_z` of the round's clients.
        jitter: Each hostile client adds its own constant from U(-jitter, jitter) to ``z``.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.
        seed: Of the jitter.

    Raises:
        UsageError: An argument is out of range, fewer than two clients are benign, or :func:`alie_z` does not exist.

    Example:
        >>> updates = torch.tensor([[1.0], [3.0], [5.0]])
        >>> ALIE(z=0.5, jitter=0.0)(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[2.]])
    """

    def __init__(
        self, z: float | None = 1.0, jitter: float = 0.05, benign_set: BenignSet = "all", seed: int = 0
    ) -> None:
        super().__init__()
        check_benign_set("ALIE", benign_set)
        check_jitter("ALIE", jitter)
        self.z = z
        self.jitter = jitter
        self.benign_set: BenignSet = benign_set
        self.seed = seed

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
        z = self.z or alie_z(len(updates), len(byzantine))
        rows = benign_rows(len(updates), byzantine, self.benign_set)
        mean = mean_over(updates, rows)
        std = std_over(updates, rows, mean)
        crafted = updates.new_empty(len(byzantine), updates.shape[1])
        for row, k in zip(crafted, byzantine, strict=True):
            torch.sub(mean, std, alpha=jittered(z, self.jitter, self.seed, client_ids[k]), out=row)
        return crafted
