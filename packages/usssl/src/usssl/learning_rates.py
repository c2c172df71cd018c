"""Learning-rate schedules of the reference, as shares of the base rate at a step of training."""

import math
from typing import Literal

from shared.errors import UsageError
from shared.schedules import cosine_factor


class Schedule:
    """A schedule; the base class holds the rate constant."""

    def check(self, epochs: int) -> None:
        """Refuse a length of training on which the schedule is undefined."""

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Share of the base rate at a step, counted in batches from 0."""
        return 1.0


class Constant(Schedule):
    """The base rate throughout."""


class WarmupCosine(Schedule):
    """Linear from 0 to the base rate, then half a cosine down to a floor: Barlow Twins and VICReg.

    See :func:`shared.schedules.cosine_factor`.

    Args:
        warmup_epochs: Length of the warm-up.
        floor: Share of the base rate at the end.

    Raises:
        UsageError: ``warmup_epochs`` is negative, or ``floor`` is outside [0, 1].

    Example:
        >>> schedule = WarmupCosine()
        >>> [round(schedule.factor(t, steps_per_epoch=20, epochs=100), 3) for t in (0, 100, 200, 1999)]
        [0.0, 0.5, 1.0, 0.001]
    """

    def __init__(self, warmup_epochs: int = 10, floor: float = 0.001) -> None:
        if warmup_epochs < 0:
            raise UsageError(f"lr_schedule.warmup_epochs must not be negative, got {warmup_epochs}")
        if not 0 <= floor <= 1:
            raise UsageError(f"lr_schedule.floor must lie in [0, 1], got {floor}")
        self.warmup_epochs = warmup_epochs
        self.floor = floor

    def check(self, epochs: int) -> None:
        if self.warmup_epochs >= epochs:
            raise UsageError(
                f"lr_schedule.warmup_epochs must be fewer than the epochs of the training ({epochs}), "
                f"got {self.warmup_epochs}"
            )

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return cosine_factor(step, epochs * steps_per_epoch, self.warmup_epochs * steps_per_epoch, floor=self.floor)


class Cosine(Schedule):
    r"""Half a cosine from the base rate towards 0.

    ``step``: :math:`\frac12 (1 + \cos \pi t / (E N))`, with ``t`` batches done of ``E`` epochs of ``N`` batches.
    ``epoch``: :math:`\frac12 (1 + \cos \pi e / E)` during epoch ``e``. ``reference``:
    :math:`\frac12 (1 + \cos \pi e / N)`, as the authors' code has it for SimCLR, MoCo and BYOL: batches taken for
    epochs, so with many batches the rate hardly falls, and with fewer batches than epochs it reaches 0 and climbs.

    Args:
        clock: Which of the three.

    Raises:
        UsageError: ``clock`` is none of them.

    Example:
        >>> [
        ...     round(Cosine(c).factor(step=200, steps_per_epoch=40, epochs=10), 3)
        ...     for c in ("step", "epoch", "reference")
        ... ]
        [0.5, 0.5, 0.962]
    """

    def __init__(self, clock: Literal["step", "epoch", "reference"] = "step") -> None:
        if clock not in ("step", "epoch", "reference"):
            raise UsageError(f"lr_schedule.clock must be step, epoch or reference, got {clock!r}")
        self.clock = clock

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        epoch = step // steps_per_epoch
        if self.clock == "step":
            progress = min(1.0, step / (steps_per_epoch * epochs))
        elif self.clock == "epoch":
            progress = min(1.0, epoch / epochs)
        else:
            progress = epoch / steps_per_epoch
        return (1 + math.cos(math.pi * progress)) / 2


class StepDecay(Schedule):
    """The base rate times ``gamma`` after every ``epochs`` epochs: the autoencoders.

    Args:
        epochs: Length of a stair.
        gamma: Factor from one stair to the next.

    Raises:
        UsageError: ``epochs`` is less than 1, or ``gamma`` is not positive.

    Example:
        >>> [round(1e-3 * StepDecay().factor(epoch * 7, 7, 1000), 7) for epoch in (49, 50, 100)]
        [0.001, 0.0005624, 0.0003163]
    """

    def __init__(self, epochs: int = 50, gamma: float = 0.5624) -> None:
        if epochs < 1:
            raise UsageError(f"lr_schedule.epochs must be at least 1, got {epochs}")
        if not gamma > 0:
            raise UsageError(f"lr_schedule.gamma must be positive, got {gamma}")
        self.epochs = epochs
        self.gamma = gamma

    def factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return self.gamma ** (step // steps_per_epoch // self.epochs)
