"""IPM, inner product manipulation: turn the mean against the descent direction."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, benign_rows, check_benign_set, check_jitter, jittered, mean_over
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack


class IPM(Attack):
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
        super().__init__()
        check_benign_set("IPM", benign_set)
        check_jitter("IPM", jitter)
        self.eps = eps
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
        mean = mean_over(updates, benign_rows(len(updates), byzantine, self.benign_set))
        crafted = updates.new_empty(len(byzantine), updates.shape[1])
        for row, k in zip(crafted, byzantine, strict=True):
            torch.mul(mean, -jittered(self.eps, self.jitter, self.seed, client_ids[k]), out=row)
        return crafted
