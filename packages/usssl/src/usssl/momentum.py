"""Momentum copies of networks: the target of BYOL, the key encoder of MoCo."""

from copy import deepcopy
from typing import Literal, TypeVar

from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn

from shared.errors import UsageError
from usssl.progress import Progress

Clock = Literal["epoch", "step"]
Network = TypeVar("Network", bound=nn.Module)

__all__ = ["Clock", "check_momentum", "cosine_momentum", "momentum_at", "momentum_copy", "update_momentum"]
# lightly's update_momentum moves parameters only: BatchNorm's buffers stay each network's own, as the reference has it.


def check_momentum(momentum: float, clock: Clock) -> None:
    """Refuse a momentum outside [0, 1] and an unknown clock."""
    if not 0 <= momentum <= 1:
        raise UsageError(f"method.momentum must lie in [0, 1], got {momentum}")
    if clock not in ("epoch", "step"):
        raise UsageError(f"method.ema_schedule must be epoch or step, got {clock!r}")


def momentum_copy(network: Network) -> Network:
    """A copy that gets no gradient."""
    copy = deepcopy(network)
    deactivate_requires_grad(copy)
    return copy


def cosine_momentum(start: float, tick: int, ticks: int) -> float:
    r"""Momentum at one of ``ticks`` (epochs or steps, from 0), half a cosine from ``start`` to 1.

    .. math:: m(e) = 1 - (1 - m_0) \frac{\cos(\pi e / (E - 1)) + 1}{2}, \qquad m = 1 \text{ if } E = 1

    So at the last tick the copy stands still. Source: Grill et al., "Bootstrap Your Own Latent", section 3.3.

    Example:
        >>> [cosine_momentum(0.996, e, 10) for e in (0, 9)], cosine_momentum(0.996, 0, 1)
        ([0.996, 1.0], 1.0)
    """
    return cosine_schedule(min(tick, ticks - 1), ticks, start, 1.0)


def momentum_at(start: float, clock: Clock, progress: Progress) -> float:
    """:func:`cosine_momentum` by epochs or by steps."""
    if clock == "epoch":
        return cosine_momentum(start, progress.epoch, progress.epochs)
    return cosine_momentum(start, progress.step, progress.steps)
