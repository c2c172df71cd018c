"""The point of least Huber loss: the mean of those nearby, where each client further away pulls with the same force."""

from torch import Tensor

from fedseca.reweighting import Space, check_space, global_model, reweighted_mean
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


class HuberMean(VectorAggregator):
    r"""The minimiser of :math:`\sum_k h_T(\|c - x_k\|_2)`, with :math:`h_T` quadratic up to T and linear beyond.

    From :math:`c = 0`, repeat :math:`c \leftarrow \sum_k \beta_k x_k / \sum_k \beta_k` with
    :math:`\beta_k = \min(1, T / \max(\nu, \|c - x_k\|_2))` until a step is shorter than ``tolerance``. As in the
    released program, T is one constant (the paper suggests :math:`2/\sqrt{n_k}` for :math:`n_k` samples), and
    :math:`x_k` are the clients' weights :math:`W - g_k`; ``space`` chooses. Uploads that hold NaN or infinity are left
    out.

    Source: Zhao, Yu, Wan, "A Huber Loss Minimization Approach to Byzantine Robust Federated Learning", AAAI 2024.

    Args:
        threshold: T; a client nearer than this counts fully.
        nu: Distances count as no less than this.
        iterations: How many steps at most.
        tolerance: A shorter step ends the search.
        space: ``weights`` (needs ``origin``) or ``updates``.

    Attributes:
        diagnostics: ``weights`` (K,) of the clients in the result, 0 for a dropped one; ``iterations`` made; and
            ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``threshold`` or ``nu`` is not positive, ``tolerance`` is negative, ``iterations`` is less than 1,
            ``space`` is unknown, no upload is finite, or the rule works on weights and got no ``origin``.

    Example:
        >>> import torch
        >>> HuberMean(threshold=2.0, tolerance=1e-6, space="updates")(torch.tensor([[0.0], [1.0], [1000.0]]))
        tensor([1.5000])
    """

    def __init__(
        self,
        threshold: float = 0.02,
        nu: float = 1e-6,
        iterations: int = 100,
        tolerance: float = 1e-3,
        space: Space = "weights",
    ) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("nu", nu)):
            if not value > 0:
                raise UsageError(f"HuberMean: {name} must be positive, got {value}")
        if tolerance < 0:
            raise UsageError(f"HuberMean: tolerance must not be negative, got {tolerance}")
        if iterations < 1:
            raise UsageError(f"HuberMean: iterations must be at least 1, got {iterations}")
        check_space("HuberMean", space)
        self.threshold = threshold
        self.nu = nu
        self.iterations = iterations
        self.tolerance = tolerance
        self.space: Space = space

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
        update, self.diagnostics = reweighted_mean(
            "HuberMean",
            updates,
            global_model("HuberMean", origin, self.space),
            lambda distances: (self.threshold / distances.clamp(min=self.nu)).clamp(max=1),
            self.iterations,
            self.tolerance,
        )
        return update
