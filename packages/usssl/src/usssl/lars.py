"""LARS as Barlow Twins and VICReg have it; for SimCLR's and BYOL's see ``lightly.utils.lars.LARS``."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from shared.errors import UsageError


class LARS(Optimizer):
    r"""Momentum SGD whose step of every matrix is scaled to the size of the matrix.

    For each parameter with gradient :math:`\nabla`, where it has more than one dimension (or none):

    .. math:: d = \nabla + \text{wd} \cdot p, \qquad d \leftarrow d \cdot \eta \, \lVert p \rVert / \lVert d \rVert
        \;\text{ (unscaled where either norm is 0)}

    and :math:`d = \nabla` for vectors (biases, BatchNorm). Then :math:`\mu \leftarrow m \mu + d` and
    :math:`p \leftarrow p - \text{lr} \, \mu`.

    Source: the published code of Barlow Twins and VICReg (LARS-A in this package's words). LARS-B, of SimCLR and BYOL,
    is ``lightly.utils.lars.LARS``: it takes :math:`\lVert \nabla \rVert + \text{wd} \lVert p \rVert` for the norm,
    treats vectors like matrices, and leaves a parameter of norm 0 unscaled and undecayed.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        vector_lr: Learning rate of vectors; ``None``: the same. Parameters must not come in groups then.
        momentum: :math:`m`.
        weight_decay: wd.
        eta: :math:`\eta`.

    Raises:
        UsageError: A number is negative.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.2,
        vector_lr: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        eta: float = 1e-3,
    ) -> None:
        numbers = {"lr": lr, "vector_lr": vector_lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        for name, value in numbers.items():
            if value is not None and not value >= 0:
                raise UsageError(f"LARS: {name} must not be negative, got {value}")
        if vector_lr is not None:
            given = list(params)
            params = [
                {"params": [p for p in given if p.ndim != 1], "lr": lr},
                {"params": [p for p in given if p.ndim == 1], "lr": vector_lr},
            ]
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in with_gradient if p.ndim != 1]
            vectors = [p for p in with_gradient if p.ndim == 1]
            for p in with_gradient:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            if vectors:
                buffers = [self.state[p]["momentum_buffer"] for p in vectors]
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, [p.grad for p in vectors])
                torch._foreach_add_(vectors, buffers, alpha=-group["lr"])
            for p in matrices:
                self._step_matrix(p, self.state[p]["momentum_buffer"], group)
        return loss

    def _step_matrix(self, p: Tensor, buffer: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        d = p.grad.add(p, alpha=group["weight_decay"])
        sizes = torch.stack([p.norm(), d.norm()])
        trust = torch.where((sizes > 0).all(), group["eta"] * sizes[0] / sizes[1], 1.0)
        buffer.mul_(group["momentum"]).addcmul_(d, trust)
        p.add_(buffer, alpha=-group["lr"])
