"""MinMax and MinSum: as far from the mean as honest clients are from each other, whatever the server's rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Omniscient
from fedseca.attacks.perturbation import Perturbation, check_perturbation, perturbation_of
from fedseca.blocks import BLOCK, slices, squared_distances
from shared.errors import UsageError


def halving_search(accepts: Callable[[float], bool], start: float, tol: float) -> float:
    """The largest accepted number between 0 and ``2 * start``, if all below it are accepted and none above.

    From ``start``, go up by half a step after a success and down after a failure, then halve the step; stop when the
    next trial is within ``tol`` of the last success. Source: Shejwalkar, Houmansadr, NDSS 2021, Algorithm 1.

    Args:
        accepts: The test.
        start: First trial and first step.
        tol: Accuracy, positive.

    Returns:
        The last success; 0 without any.

    Example:
        >>> round(halving_search(lambda gamma: gamma <= 12.3, start=10.0, tol=1e-5), 3)
        12.3
    """
    success, trial, step = 0.0, start, start
    while abs(success - trial) > tol:
        if accepts(trial):
            success = trial
            trial += step / 2
        else:
            trial -= step / 2
        step /= 2
    return success


@dataclass(frozen=True)
class Ray:
    r"""Squared distances from clients to a point that moves, :math:`\|\mathrm{mean} - \gamma p - g_i\|^2`.

    They are quadratic in :math:`\gamma`, so one pass over the vectors serves every trial of a search.

    Args:
        near: ``(K,)`` :math:`\|\mathrm{mean} - g_i\|^2`.
        along: ``(K,)`` :math:`\langle \mathrm{mean} - g_i, p \rangle`.
        speed: :math:`\|p\|^2`.
    """

    near: Tensor
    along: Tensor
    speed: Tensor

    @classmethod
    def through(cls, updates: Tensor, rows: Sequence[int], mean: Tensor, perturbation: Tensor) -> "Ray":
        """The ray from ``mean`` against ``perturbation``, both ``(d,)``, as those ``rows`` see it.

        Example:
            >>> ray = Ray.through(torch.tensor([[1.0], [3.0]]), [0, 1], torch.tensor([2.0]), torch.tensor([1.0]))
            >>> ray.distances(3.0)  # the point is -1
            tensor([ 4., 16.], dtype=torch.float64)
        """
        near = torch.zeros(len(rows), dtype=torch.float64, device=mean.device)
        along, speed = torch.zeros_like(near), torch.zeros_like(near[:1])
        for columns in slices(len(mean), BLOCK):
            here, way = mean[columns].double(), perturbation[columns].double()
            speed += way @ way
            for i, k in enumerate(rows):
                gap = here - updates[k, columns]
                near[i] += gap @ gap
                along[i] += gap @ way
        return cls(near, along, speed)

    def distances(self, gamma: float) -> Tensor:
        """``(K,)`` squared distances at ``gamma``."""
        return self.near - 2 * gamma * self.along + gamma**2 * self.speed


class MinMax(Omniscient):
    r"""All hostile clients upload :math:`\mathrm{mean} - \gamma p`, no farther from any client than two clients are.

    :math:`\gamma` is the largest number with
    :math:`\max_i \|g_{byz} - g_i\|^2 \le \max_{i,j} \|g_i - g_j\|^2` that :func:`halving_search` finds, so at most
    twice ``start``. The server's rule need not be known.

    Source: Shejwalkar, Houmansadr, "Manipulating the Byzantine: Optimizing Model Poisoning Attacks and Defenses for
    Federated Learning", NDSS 2021.

    Args:
        perturbation: p, see :func:`~fedseca.attacks.perturbation.perturbation_of`.
        start: First :math:`\gamma` of the search, half of the largest.
        tol: Accuracy of :math:`\gamma`.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.

    Raises:
        UsageError: An argument is out of range, or too few clients are benign.

    Example:
        >>> updates = torch.tensor([[1.0], [3.0], [2.0]])
        >>> MinMax()(updates, byzantine=[2], client_ids=[0, 1, 2])  # 2 away from the farthest, as 1 is from 3
        tensor([[1.0000]])
    """

    def __init__(
        self,
        perturbation: Perturbation = "unit_vec",
        start: float = 10.0,
        tol: float = 1e-5,
        benign_set: BenignSet = "all",
    ) -> None:
        super().__init__(benign_set)
        name = type(self).__name__
        check_perturbation(name, perturbation)
        for option, value in (("start", start), ("tol", tol)):
            if not value > 0:
                raise UsageError(f"{name}: {option} must be positive, got {value}")
        self.perturbation: Perturbation = perturbation
        self.start = start
        self.tol = tol

    def bound(self, between: Tensor) -> Tensor:
        """What :meth:`reach` may not exceed, of the ``(K, K)`` squared distances between benign clients."""
        return between.max()

    def reach(self, distances: Tensor) -> Tensor:
        """How far a point is, of its ``(K,)`` squared distances from the benign clients."""
        return distances.max()

    def craft(self, updates: Tensor, rows: Sequence[int], mean: Tensor, ids: Sequence[int], **_: Any) -> Tensor:
        perturbation = perturbation_of(updates, rows, mean, self.perturbation)
        ray = Ray.through(updates, rows, mean, perturbation)
        bound = self.bound(squared_distances(updates if len(rows) == len(updates) else updates[rows]))
        gamma = halving_search(lambda trial: bool(self.reach(ray.distances(trial)) <= bound), self.start, self.tol)
        return torch.sub(mean, perturbation, alpha=gamma).repeat(len(ids), 1)


class MinSum(MinMax):
    r"""As :class:`MinMax`, with sums of squared distances: no farther from all clients together than one of them is.

    :math:`\sum_i \|g_{byz} - g_i\|^2 \le \max_i \sum_j \|g_i - g_j\|^2`. The paper's own program takes the smallest of
    the K sums on the right instead, ``limit="min"``.

    Source: as :class:`MinMax`.

    Args:
        perturbation: As in :class:`MinMax`.
        start: As in :class:`MinMax`.
        tol: As in :class:`MinMax`.
        benign_set: As in :class:`MinMax`.
        limit: Which of the K sums bounds the attack, ``max`` or ``min``.

    Raises:
        UsageError: An argument is out of range, or too few clients are benign.

    Example:
        >>> updates = torch.tensor([[1.0], [3.0], [2.0]])
        >>> MinSum()(updates, byzantine=[2], client_ids=[0, 1, 2])  # 0 + 4 + 1, as for 1 itself
        tensor([[1.0000]])
    """

    def __init__(
        self,
        perturbation: Perturbation = "unit_vec",
        start: float = 10.0,
        tol: float = 1e-5,
        benign_set: BenignSet = "all",
        limit: Literal["max", "min"] = "max",
    ) -> None:
        super().__init__(perturbation, start, tol, benign_set)
        if limit not in ("max", "min"):
            raise UsageError(f"MinSum: limit must be one of max, min, got {limit!r}")
        self.limit = limit

    def bound(self, between: Tensor) -> Tensor:
        """The largest, or smallest, sum of a client's squared distances from the others."""
        sums = between.sum(1)
        return sums.max() if self.limit == "max" else sums.min()

    def reach(self, distances: Tensor) -> Tensor:
        """The sum of the point's squared distances."""
        return distances.sum()
