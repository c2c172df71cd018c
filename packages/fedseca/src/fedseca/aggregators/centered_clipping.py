"""Centred clipping: nobody moves the last update further than tau."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients
from fedseca.reweighting import lengths, products_with
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


def clipped_step(center: Tensor, points: Tensor, products: Tensor, tau: float) -> Tensor:
    r""":math:`m + \frac1K \sum_k (x_k - m) \min(1, \tau / \|x_k - m\|_2)`, all as combinations of n vectors.

    Args:
        center: ``(n,)`` coefficients of m.
        points: ``(K, n)`` of the :math:`x_k`.
        products: ``(n, n)`` inner products of the vectors that are combined.
        tau: Largest step towards a point.

    Returns:
        ``(n,)``.

    Example:
        >>> points, products = torch.tensor([[1.0], [-0.5]]), torch.tensor([[16.0]])  # 4 and -2
        >>> clipped_step(torch.zeros(1), points, products, tau=2.0)
        tensor([0.])
        >>> clipped_step(torch.zeros(1), points, products, tau=100.0)  # 1
        tensor([0.2500])
    """
    # A point at the centre itself does not pull, whatever its factor.
    factors = (tau / lengths(points - center, products)).clamp(max=1) / len(points)
    return center * (1 - factors.sum()) + factors @ points


class CenteredClipping(VectorAggregator):
    r"""The last update, moved by the mean of the clipped differences of the uploads from it.

    Starting at the previous update (0 in the first round), repeat
    :math:`m \leftarrow m + \frac1K \sum_k (g_k - m) \min(1, \tau / \|g_k - m\|_2)`. Uploads that hold NaN or infinity
    are left out.

    Every centre is a combination of the uploads and the last update, so one pass gives their inner products, the steps
    are made on coefficients (:func:`fedseca.reweighting.lengths` tells the error), and a second pass forms the result.

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
        products = products_with(updates, center)
        kept = finite_clients(products.diagonal()[:-1], type(self).__name__)
        used = [*kept, len(updates)]
        unit = torch.eye(len(used), dtype=torch.float64, device=updates.device)
        coefficients = self.move(unit[-1], unit[:-1], products[used][:, used], round)
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        update = combinations(coefficients[None, :-1], updates, kept)[0]
        self.center = update.add_(center, alpha=float(coefficients[-1]))
        # The caller gets its own copy: what it does with the update must not reach the state.
        return update.clone()

    def move(self, center: Tensor, points: Tensor, products: Tensor, round: int) -> Tensor:
        """The steps of one round, see :func:`clipped_step`; at first the centre is the last of the vectors."""
        for _ in range(self.iterations):
            center = clipped_step(center, points, products, self.tau)
        return center
