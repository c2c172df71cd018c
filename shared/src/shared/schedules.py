"""Learning-rate schedules on the true step clock: one step of the schedule per step of the optimiser."""

import math
from typing import Protocol, runtime_checkable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shared.errors import UsageError


def poly_factor(step: int, total_steps: int, warmup_steps: int, exponent: float) -> float:
    r"""Share of the base rate at optimiser step ``i`` (from 0) of a polynomial decay after a linear warm-up.

    .. math:: f(0) = \tfrac1P, \qquad f(i) = \tfrac{i}{P} \;(1 \le i \le P), \qquad
        f(i) = \max\left(0,\; 1 - \tfrac{i - 1 - P}{M}\right)^e \;(i > P)

    ``M`` is ``total_steps``, ``P`` is ``warmup_steps``. The decay runs over ``M`` steps from the end of the warm-up on,
    so at step ``M`` it has not reached zero. Without warm-up the rate starts at the base rate.

    Source: the SAMed and FLAP-SAM reference code, which sets the rate after the step (hence the shift by one).

    Example:
        >>> [
        ...     round(8e-4 * poly_factor(i, total_steps=100, warmup_steps=10, exponent=7), 8)
        ...     for i in (0, 1, 2, 10, 11, 12)
        ... ]
        [8e-05, 8e-05, 0.00016, 0.0008, 0.0008, 0.00074565]
    """
    if step <= warmup_steps and warmup_steps > 0:
        return max(step, 1) / warmup_steps
    return float(max(0.0, 1 - max(step - 1 - warmup_steps, 0) / total_steps) ** exponent)


def cosine_factor(
    step: int, total_steps: int, warmup_steps: int, *, floor: float = 0.0, from_zero: bool = True
) -> float:
    r"""Share of the base rate at optimiser step ``t`` (from 0) of half a cosine after a linear warm-up.

    .. math:: f(t) = \frac{t + o}{W} \;(t < W), \qquad f(t) = q + \text{floor}\,(1 - q),\;
        q = \tfrac12\left(1 + \cos \pi \tfrac{t - W}{S - W}\right) \;(t \ge W)

    ``S`` is ``total_steps``, ``W`` is ``warmup_steps``, and ``o`` is 0 where the rate starts ``from_zero``, else 1.
    From step ``S`` on the rate stays at the floor instead of rising again.

    Source: Barlow Twins and VICReg (from zero, floor 0.001); CLIP and Long-CLIP (not from zero, floor 0).

    Example:
        >>> [round(cosine_factor(t, total_steps=2000, warmup_steps=200, floor=0.001), 3) for t in (0, 100, 200, 1999)]
        [0.0, 0.5, 1.0, 0.001]
    """
    if step < warmup_steps:
        return (step + (not from_zero)) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
    q = (1 + math.cos(math.pi * progress)) / 2
    return q + floor * (1 - q)


def _check(name: str, total_steps: int, warmup_steps: int) -> None:
    if total_steps < 1:
        raise UsageError(f"{name}: total_steps must be at least 1, got {total_steps}")
    if warmup_steps < 0:
        raise UsageError(f"{name}: warmup_steps must not be negative, got {warmup_steps}")


@runtime_checkable
class CountsEpochs(Protocol):
    """A schedule that wants to know how many steps an epoch has, before it is stepped."""

    def set_steps_per_epoch(self, steps: int) -> None:
        """Take the number of optimiser steps in one pass over the data."""


class WarmupPolyLR(LambdaLR):
    """Linear warm-up, then polynomial decay; see :func:`poly_factor`. To be stepped after every optimiser step.

    Args:
        optimizer: The optimiser, with the base rate.
        total_steps: Steps over which the decay would reach zero, ``M``.
        warmup_steps: Steps of the warm-up, ``P``.
        exponent: Power of the decay, ``e``.
        epochs: In place of ``total_steps``: passes over the data, so that ``M`` is ``epochs`` times the steps of one
            pass. Who trains tells these by :meth:`set_steps_per_epoch`; in a federation they are each client's own.

    Raises:
        UsageError: Not exactly one of ``total_steps`` and ``epochs`` is given or it is less than 1, or
            ``warmup_steps`` or ``exponent`` is negative.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupPolyLR(optimizer, epochs=200, warmup_steps=0)
        >>> schedule.set_steps_per_epoch(7)
        >>> schedule.total_steps
        1400
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup_steps: int = 250,
        exponent: float = 7.0,
        epochs: int | None = None,
    ) -> None:
        if (total_steps is None) == (epochs is None):
            raise UsageError(f"WarmupPolyLR: give total_steps or epochs, got {total_steps} and {epochs}")
        if epochs is not None and epochs < 1:
            raise UsageError(f"WarmupPolyLR: epochs must be at least 1, got {epochs}")
        _check("WarmupPolyLR", 1 if total_steps is None else total_steps, warmup_steps)
        if exponent < 0:
            raise UsageError(f"WarmupPolyLR: exponent must not be negative, got {exponent}")
        self.total_steps, self.epochs = total_steps, epochs

        def factor(step: int) -> float:
            if self.total_steps is None and step > 0:
                raise UsageError("WarmupPolyLR: epochs needs a training that tells how many steps an epoch has")
            # The first rate is the same for every length.
            return poly_factor(step, self.total_steps or 1, warmup_steps, exponent)

        super().__init__(optimizer, factor)

    def set_steps_per_epoch(self, steps: int) -> None:
        """Where the length is given in ``epochs``, let it be that many times ``steps``."""
        if self.epochs is not None:
            self.total_steps = self.epochs * max(1, steps)


class WarmupCosineLR(LambdaLR):
    """Linear warm-up, then half a cosine; see :func:`cosine_factor`. To be stepped after every optimiser step.

    Args:
        optimizer: The optimiser, with the base rate.
        total_steps: Step from which the rate stays at the floor, ``S``.
        warmup_steps: Steps of the warm-up, ``W``; fewer than ``total_steps``.
        floor: Share of the base rate at the end.
        from_zero: Whether the very first step has rate 0 (self-supervised recipes) or one warm-up step's (CLIP's).

    Raises:
        UsageError: ``warmup_steps`` is negative or leaves no step for the cosine, or ``floor`` is outside [0, 1].
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int = 0,
        floor: float = 0.0,
        from_zero: bool = True,
    ) -> None:
        _check("WarmupCosineLR", total_steps, warmup_steps)
        if warmup_steps >= total_steps:
            raise UsageError(
                f"WarmupCosineLR: warmup_steps must be fewer than total_steps ({total_steps}), got {warmup_steps}"
            )
        if not 0 <= floor <= 1:
            raise UsageError(f"WarmupCosineLR: floor must lie in [0, 1], got {floor}")
        super().__init__(
            optimizer,
            lambda step: cosine_factor(step, total_steps, warmup_steps, floor=floor, from_zero=from_zero),
        )
