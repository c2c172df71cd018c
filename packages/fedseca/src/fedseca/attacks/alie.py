"""ALIE, "A Little Is Enough": hide inside the spread of the honest uploads."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Jittered, std_over
from shared.errors import UsageError


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


class ALIE(Jittered):
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
        >>> import torch
        >>> updates = torch.tensor([[1.0], [3.0], [5.0]])
        >>> ALIE(z=0.5, jitter=0.0)(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[2.]])
    """

    def __init__(
        self, z: float | None = 1.0, jitter: float = 0.05, benign_set: BenignSet = "all", seed: int = 0
    ) -> None:
        super().__init__(jitter, benign_set, seed)
        self.z = z

    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **_: Any) -> Tensor:
        z = self.z or alie_z(len(updates), len(ids))
        return self.spread(mean, std_over(updates, rows, mean).neg_(), z, ids)
