"""The MinMax attack as it was released with FedSECA: a constant step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Omniscient, unit


class MinMaxSumReleased(Omniscient):
    r"""All hostile clients upload :math:`\mathrm{mean} - \gamma\, \mathrm{mean}/\|\mathrm{mean}\|`.

    Here :math:`\gamma` is a constant, 15. The program that FedSECA was compared with means to search the
    :math:`\gamma` with which the server's rule errs most, but never remembers its best value: every trial succeeds, and
    10, 12.5, 13.75 … ends at 15 less 2e-5. To compare with numbers from that program, take this; for the search itself,
    :class:`~fedseca.attacks.agr_tailored.AGRTailored`.

    Args:
        gamma: :math:`\gamma`, the length of the step.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.

    Raises:
        UsageError: ``benign_set`` is neither of the two, or nobody is benign.

    Example:
        >>> updates = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
        >>> MinMaxSumReleased()(updates, byzantine=[1], client_ids=[0, 1])
        tensor([[-6.0000, -8.0000]])
    """

    def __init__(self, gamma: float = 15.0, benign_set: BenignSet = "all") -> None:
        super().__init__(benign_set)
        self.gamma = gamma

    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **_: Any) -> Tensor:
        return torch.sub(mean, unit(mean), alpha=self.gamma).repeat(len(ids), 1)
