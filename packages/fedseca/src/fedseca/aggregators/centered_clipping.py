"""Centred clipping: nobody moves the last update further than tau."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedseca.blocks import BLOCK, finite_clients, slices
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def distances_from(center: Tensor, rows: Sequence[Tensor] | Tensor) -> Tensor:
    r""":math:`\|g_k - m\|_2` of every row, in float64.

    Args:
        center: ``(d,)``.
        rows: K vectors of ``d`` numbers.

    Returns:
        ``(K,)``; not finite exactly where a row is not.

    Example:
        >>> distances_from(torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 5.0], [1.0, 1.0]]))
        tensor([5., 0.], dtype=torch.float64)
    """
    squared = torch.zeros(len(rows), dtype=torch.float64, device=center.device)
    for columns in slices(len(center), BLOCK):
        here = center[columns]
        difference = torch.empty_like(here)
        squared += torch.stack(
            [
                torch.linalg.vector_norm(torch.sub(row[columns], here, out=difference), dtype=torch.float64)
                for row in rows
            ]
        ).square_()
    return squared.sqrt_()


def clipped_step(center: Tensor, rows: Sequence[Tensor] | Tensor, distances: Tensor, tau: float) -> Tensor:
    r""":math:`m + \frac1K \sum_k (g_k - m) \min(1, \tau / \|g_k - m\|_2)`.

    Args:
        center: ``(d,)`` m; read only.
        rows: K vectors of ``d`` finite numbers; read only.
        distances: ``(K,)`` what :func:`distances_from` returned for them.
        tau: Largest step towards a client.

    Returns:
        ``(d,)``.

    Example:
        >>> center, rows = torch.zeros(2), torch.tensor([[0.0, 4.0], [0.0, -2.0]])
        >>> clipped_step(center, rows, distances_from(center, rows), tau=2.0)
        tensor([0., 0.])
        >>> clipped_step(center, rows, distances_from(center, rows), tau=100.0)
        tensor([0., 1.])
    """
    # A client at the centre itself does not pull, whatever its factor.
    factors = (tau / distances).clamp_(max=1).div_(len(rows)).tolist()
    # The factors at the centre are collected, so that each client costs one pass.
    stay = 1 - math.fsum(factors)
    moved = torch.empty_like(center)
    for columns in slices(len(center), BLOCK):
        here = torch.mul(center[columns], stay, out=moved[columns])
        for row, factor in zip(rows, factors, strict=True):
            here.add_(row[columns], alpha=factor)
    return moved


class CenteredClipping(VectorAggregator):
    r"""The last update, moved by the mean of the clipped differences of the uploads from it.

    Starting at the previous update (0 in the first round), repeat
    :math:`m \leftarrow m + \frac1K \sum_k (g_k - m) \min(1, \tau / \|g_k - m\|_2)`. Uploads that hold NaN or infinity
    are left out.

    Source: Karimireddy, He, Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021, Eq. 5.

    Args:
        tau: Largest step towards a client.
        iterations: How often to repeat in one round.

    Attributes:
        center: ``(d,)`` the last update; ``None`` before the first round.
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``tau`` is not positive, ``iterations`` is less than 1, no upload is finite, or the length of the
            vectors changed.

    Example:
        >>> rule = CenteredClipping(tau=1.0, iterations=1)
        >>> uploads = torch.tensor([[0.0, 0.5], [0.0, 0.5], [300.0, 400.0]])
        >>> rule(uploads)
        tensor([0.2000, 0.6000])
    """

    center: Tensor | None

    def __init__(self, tau: float = 100.0, iterations: int = 3) -> None:
        super().__init__()
        if not tau > 0:
            raise UsageError(f"CenteredClipping: tau must be positive, got {tau}")
        if iterations < 1:
            raise UsageError(f"CenteredClipping: iterations must be at least 1, got {iterations}")
        self.tau = tau
        self.iterations = iterations
        self.register_buffer("center", None)

    def setup(self, d: int, device: torch.device | str | None = None) -> None:
        """Allocate the centre at 0."""
        self.center = torch.zeros(d, device=device)

    def start(self, updates: Tensor) -> Tensor:
        """The last update, or zero before the first round.

        Raises:
            UsageError: The length of the vectors changed.
        """
        center = torch.zeros_like(updates[0]) if self.center is None else self.center.to(updates)
        if center.shape != updates.shape[1:]:
            raise UsageError(
                f"{type(self).__name__}: updates must have {len(center)} coordinates as before, got {updates.shape[1]}"
            )
        return center

    def combine(
        self,
        updates: Tensor,
        *,
        origin: Tensor | None,
        weights: Tensor,
        client_ids: tuple[int, ...],
        round: int,
        reference: Tensor | None,
    ) -> Tensor:
        center = self.start(updates)
        distances = distances_from(center, updates)
        kept = finite_clients(distances, "CenteredClipping")
        rows, distances = [updates[k] for k in kept], distances[kept]
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        center = clipped_step(center, rows, distances, self.tau)
        for _ in range(1, self.iterations):
            center = clipped_step(center, rows, distances_from(center, rows), self.tau)
        self.center = center
        # The caller gets its own copy: what it does with the update must not reach the state.
        return center.clone()
