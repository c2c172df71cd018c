"""The crafted attack of Fang et al.: a fixed step past the mean, against the direction of learning."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, benign_rows, check_benign_set, check_jitter, jittered, mean_over
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack


class Fang(Attack):
    r"""All hostile clients upload the mean weights, each moved by :math:`\lambda` against the change of the round.

    In weights :math:`W_{byz} = \bar W - \lambda S`, where :math:`S^j = 1` if the mean weight :math:`\bar W^j` has grown
    and -1 if it has shrunk or stayed. As a pseudo-gradient that is :math:`\mathrm{mean} + \lambda S` with
    :math:`S^j = 1` where the mean is negative. The step is absolute, and large against most updates.

    Source: Fang, Cao, Jia, Gong, "Local Model Poisoning Attacks to Byzantine-Robust Federated Learning", USENIX
    Security 2020, in the form of the program that FedSECA was compared with.

    Args:
        lam: :math:`\lambda`.
        jitter: Each hostile client adds its own constant from U(-jitter, jitter) to ``lam``.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.
        seed: Of the jitter.

    Raises:
        UsageError: An argument is out of range, or nobody is benign.

    Example:
        >>> updates = torch.tensor([[-1.0, 1.0, 0.0], [-1.0, 3.0, 0.0], [-1.0, 5.0, 0.0]])
        >>> Fang(lam=0.5, jitter=0.0)(updates, byzantine=[2], client_ids=[0, 1, 2])
        tensor([[-0.5000,  2.5000, -0.5000]])
    """

    def __init__(self, lam: float = 0.1, jitter: float = 0.05, benign_set: BenignSet = "all", seed: int = 0) -> None:
        super().__init__()
        check_benign_set("Fang", benign_set)
        check_jitter("Fang", jitter)
        self.lam = lam
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
        back = torch.where(mean < 0, 1.0, -1.0).to(mean)
        crafted = updates.new_empty(len(byzantine), updates.shape[1])
        for row, k in zip(crafted, byzantine, strict=True):
            torch.add(mean, back, alpha=jittered(self.lam, self.jitter, self.seed, client_ids[k]), out=row)
        return crafted
