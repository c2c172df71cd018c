"""IPM, inner product manipulation: turn the mean against the descent direction."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Jittered


class IPM(Jittered):
    r"""All hostile clients upload :math:`-\varepsilon\,\mathrm{mean}` of the benign set.

    Source: Xie, Koyejo, Gupta, "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation", UAI
    2019, section 4.

    Args:
        eps: Strength; small values hide, large ones shout.
        jitter: Each hostile client adds its own constant from U(-jitter, jitter) to ``eps``.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.
        seed: Of the jitter.

    Raises:
        UsageError: An argument is out of range, or nobody is benign.

    Example:
        >>> updates = torch.tensor([[1.0], [3.0], [5.0]])
        >>> IPM(eps=2.0, jitter=0.0)(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[-6.]])
    """

    def __init__(self, eps: float = 1.3, jitter: float = 0.05, benign_set: BenignSet = "all", seed: int = 0) -> None:
        super().__init__(jitter, benign_set, seed)
        self.eps = eps

    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **_: Any) -> Tensor:
        return self.spread(torch.zeros_like(mean), mean.neg(), self.eps, ids)
