"""ROP, relocated orthogonal perturbation: the server's last update, pushed sideways."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedseca.attacks.omniscience import BenignSet, Jittered, known_origin, unit
from fedseca.blocks import inner_products
from shared.errors import UsageError


def turned(drift: Tensor, angle: float) -> Tensor:
    r"""The unit vector at ``angle`` degrees from ``drift``, on the side of the all-ones vector.

    :math:`\sin(a)\, q / \|q\| + \cos(a)\, u / \|u\|` with
    :math:`q = 1 - u \langle 1, u\rangle / \langle u, u\rangle`, the part of the all-ones vector that is orthogonal to
    ``drift``. If one of the two has no direction, the other alone decides.

    Args:
        drift: ``(d,)`` u.
        angle: a, in degrees.

    Returns:
        ``(d,)``.

    Example:
        >>> turned(torch.tensor([2.0, 0.0]), 90.0).round(decimals=4).abs()
        tensor([0., 1.])
    """
    ones = torch.ones_like(drift)
    share, square = inner_products([ones, drift], drift).tolist()
    side = ones.sub_(drift, alpha=share / square) if square else ones
    radians = math.radians(angle)
    return unit(unit(side).mul_(math.sin(radians)).add_(unit(drift), alpha=math.cos(radians)))


class ROP(Jittered):
    r"""All hostile clients upload :math:`\rho\, m + (1-\rho)\,\mathrm{mean} + z\, p`.

    m is what the server subtracted in the last round the attacker saw (in its first round, the mean), and p the unit
    vector at ``angle`` degrees from :math:`\lambda m + (1-\lambda)\,\mathrm{mean}` that :func:`turned` gives: a
    constant push to one side that neither norms nor distances show.

    Source: Özfatura, Özfatura, Küpçü, Gündüz, "Byzantines Can Also Learn from History: Fall of Centered Clipping in
    Federated Learning", IEEE Transactions on Information Forensics and Security, 2024.

    Args:
        angle: Between the push and the drift, in degrees.
        rho: How much of the base is the server's last update.
        lam: :math:`\lambda`, the same for the drift.
        z: Length of the push.
        jitter: Each hostile client adds its own constant from U(-jitter, jitter) to ``z``.
        benign_set: ``all`` clients, the hostile ones trained honestly included, or only the ``honest``.
        seed: Of the jitter.

    Attributes:
        previous: ``(d,)`` the global vector before the last round; ``None`` before the first.
        started: Whether there was a round.

    Raises:
        UsageError: An argument is out of range, nobody is benign, or the global vector is missing or changed its
            length.

    Example:
        >>> updates, origin = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.zeros(2)
        >>> ROP(jitter=0.0)(updates, byzantine=[1], client_ids=[0, 1], origin=origin)
        tensor([[2.0000, 0.5000]])
    """

    previous: Tensor | None
    started: Tensor

    def __init__(
        self,
        angle: float = 90.0,
        rho: float = 1.0,
        lam: float = 0.9,
        z: float = 0.5,
        jitter: float = 0.05,
        benign_set: BenignSet = "all",
        seed: int = 0,
    ) -> None:
        super().__init__(jitter, benign_set, seed)
        for option, value in (("rho", rho), ("lam", lam)):
            if not 0 <= value <= 1:
                raise UsageError(f"ROP: {option} must lie in [0, 1], got {value}")
        self.angle = angle
        self.rho = rho
        self.lam = lam
        self.z = z
        self.register_buffer("previous", None)
        self.register_buffer("started", torch.tensor(False))

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate the memory of one global vector."""
        self.previous = torch.zeros(d, device=device)

    def craft(
        self,
        updates: Tensor,
        rows: Sequence[int],
        mean: Tensor,
        ids: Sequence[int],
        *,
        origin: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        origin = known_origin("ROP", origin)
        if self.previous is not None and self.previous.shape != origin.shape:
            raise UsageError(f"ROP: origin must have {len(self.previous)} coordinates as before, got {len(origin)}")
        last = self.previous.to(origin) - origin if self.previous is not None and bool(self.started) else mean
        push = turned(torch.lerp(mean, last, self.lam), self.angle)
        base = torch.lerp(mean, last, self.rho)
        self.previous = origin.clone()
        self.started.fill_(True)
        return self.spread(base, push, self.z, ids)
