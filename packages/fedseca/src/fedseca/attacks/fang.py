"""The crafted attack of Fang et al.: a fixed step past the mean, against the direction of learning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Jittered


class Fang(Jittered):
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
        super().__init__(jitter, benign_set, seed)
        self.lam = lam

    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **_: Any) -> Tensor:
        back = torch.where(mean < 0, 1.0, -1.0).to(mean)
        return self.spread(mean, back, self.lam, ids)
