"""Centred clipping: nobody moves the last update further than tau."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedseca.blocks import BLOCK, finite_clients, slices, squared_norms
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def centered_clipping(rows: Sequence[Tensor], center: Tensor, tau: float, iterations: int) -> Tensor:
    r"""Repeat :math:`m \leftarrow m + \frac1K \sum_k (g_k - m) \min(1, \tau / \|g_k - m\|_2)` from ``center``.

    Args:
        rows: K vectors of ``d`` finite numbers; read only.
        center: ``(d,)`` where to start; read only.
        tau: Largest step towards a client.
        iterations: How often to repeat.

    Returns:
        ``(d,)``.

    Example:
        >>> rows = [torch.tensor([0.0, 4.0]), torch.tensor([0.0, -2.0])]
        >>> centered_clipping(rows, torch.zeros(2), tau=2.0, iterations=1)
        tensor([0., 0.])
        >>> centered_clipping(rows, torch.zeros(2), tau=100.0, iterations=1)
        tensor([0., 1.])
    """
    m = center.clone()
    difference = m.new_empty(min(BLOCK, len(m)))

    def walk(factors: list[float] | None) -> Tensor:
        """Move by the clipped differences (if there are factors yet), and measure the distances to where that leads."""
        squared = torch.zeros(len(rows), dtype=torch.float64, device=m.device)
        for columns in slices(len(m), BLOCK):
            here, part = m[columns], difference[: columns.stop - columns.start]
            if factors is not None:
                step = torch.zeros_like(here)
                for row, factor in zip(rows, factors, strict=True):
                    step += torch.sub(row[columns], here, out=part).mul_(factor)
                here += step.div_(len(rows))
            squared += torch.stack(
                [torch.linalg.vector_norm(torch.sub(row[columns], here, out=part), dtype=torch.float64) for row in rows]
            ).square_()
        return squared.sqrt_()

    distances = walk(None)
    for _ in range(iterations):
        # A client at the centre itself does not pull, whatever its factor.
        distances = walk((tau / distances).clamp_(max=1).tolist())
    return m


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
        center = torch.zeros_like(updates[0]) if self.center is None else self.center.to(updates)
        if center.shape != updates.shape[1:]:
            raise UsageError(
                f"CenteredClipping: updates must have {len(center)} coordinates as before, got {updates.shape[1]}"
            )
        kept = finite_clients(squared_norms(updates), "CenteredClipping")
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        self.center = centered_clipping([updates[k] for k in kept], center, self.tau, self.iterations)
        # The caller gets its own copy: what it does with the update must not reach the state.
        return self.center.clone()
