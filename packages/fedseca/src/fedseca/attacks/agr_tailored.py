"""The attack tailored to the server's rule: try it out on a copy, upload what misleads it most."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Omniscient
from fedseca.attacks.perturbation import Perturbation, check_perturbation, perturbation_of
from shared.errors import UsageError
from shared.federated.aggregation import StateRule, VectorAggregator

_OCTAVES = 12


def highest(height: Callable[[float], float], limit: float, tol: float) -> float:
    """Where a function of a positive number is highest, as far as few trials can tell.

    First ``limit`` and its halves down to ``limit / 2048``; then, from the best of them, steps up and down that are
    halved whenever neither leads higher. A function with one peak is followed to it, also one that drops to a plateau
    right behind it, as the error of a rule does that starts to recognise the attack.

    Args:
        height: The function.
        limit: Largest number tried.
        tol: Accuracy relative to the number.

    Example:
        >>> round(highest(lambda x: x if x < 5 else 1.0, limit=100.0, tol=1e-3), 1)
        5.0
    """
    scanned = {trial: height(trial) for trial in (limit / 2**octave for octave in range(_OCTAVES))}
    best = max(scanned, key=scanned.__getitem__)
    top, step = scanned[best], best / 2
    while step > tol * best:
        for trial in (min(best + step, limit), best - step):
            reached = height(trial)
            if reached > top:
                best, top = trial, reached
                break
        else:
            step /= 2
    return best


class AGRTailored(Omniscient):
    r"""All hostile clients upload :math:`\mathrm{mean} - \gamma p`, as far as it misleads the server most.

    :math:`\gamma` maximises :math:`\|\mathrm{mean} - \mathrm{AGG}(g_1, \dots, g_{byz}, \dots)\|_2`, where every hostile
    row is replaced, by :func:`highest`. Each trial runs a fresh deep copy of the server's rule, with its momentum and
    history, under a fork of torch's random state: the server never notices. About 25 runs of the rule per round. A rule
    that needs the server's own clean data cannot be tried out, for the attacker has none of them.

    Source: Shejwalkar, Houmansadr, "Manipulating the Byzantine", NDSS 2021, here for any rule.

    Args:
        perturbation: p, see :func:`~fedseca.attacks.perturbation.perturbation_of`.
        limit: Largest :math:`\gamma`; the error of a plain mean grows without bound.
        tol: Relative accuracy of :math:`\gamma`.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.

    Raises:
        UsageError: An argument is out of range, too few clients are benign, or the server's rule is not one on vectors
            or needs a reference update.

    Example:
        >>> from fedseca.aggregators import FedAvg
        >>> updates = torch.tensor([[1.0], [1.0], [1.0], [1.0]])
        >>> AGRTailored(limit=8.0)(updates, byzantine=[3], client_ids=[0, 1, 2, 3], aggregator=FedAvg())
        tensor([[-7.]])
    """

    def __init__(
        self,
        perturbation: Perturbation = "unit_vec",
        limit: float = 100.0,
        tol: float = 0.01,
        benign_set: BenignSet = "all",
    ) -> None:
        super().__init__(benign_set)
        check_perturbation("AGRTailored", perturbation)
        for option, value in (("limit", limit), ("tol", tol)):
            if not value > 0:
                raise UsageError(f"AGRTailored: {option} must be positive, got {value}")
        self.perturbation: Perturbation = perturbation
        self.limit = limit
        self.tol = tol

    def check(self, aggregator: VectorAggregator | StateRule | None) -> None:
        """The rule must be one on vectors that the attacker can run by itself."""
        if not isinstance(aggregator, VectorAggregator):
            raise UsageError(f"AGRTailored needs the server's rule on vectors, got {type(aggregator).__name__}")
        if aggregator.needs_reference:
            raise UsageError(
                "AGRTailored needs a rule that it can try out without the server's clean data, "
                f"got {type(aggregator).__name__}"
            )

    def craft(
        self,
        updates: Tensor,
        rows: Sequence[int],
        mean: Tensor,
        ids: Sequence[int],
        *,
        byzantine: Sequence[int] = (),
        aggregator: VectorAggregator | None = None,
        **context: Any,
    ) -> Tensor:
        self.check(aggregator)
        assert aggregator is not None
        perturbation = perturbation_of(updates, rows, mean, self.perturbation)
        hostile, uploads = list(byzantine), updates.clone()

        def error(gamma: float) -> float:
            uploads[hostile] = torch.sub(mean, perturbation, alpha=gamma)
            combined = deepcopy(aggregator)(uploads, **context)
            return float(torch.linalg.vector_norm(combined.sub_(mean), dtype=torch.float64))

        with torch.random.fork_rng(devices=[updates.device] if updates.is_cuda else []):
            gamma = highest(error, self.limit, self.tol)
        return torch.sub(mean, perturbation, alpha=gamma).repeat(len(hostile), 1)
