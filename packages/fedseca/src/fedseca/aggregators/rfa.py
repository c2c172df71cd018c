"""RFA: the geometric median of the uploads, by a few steps of Weiszfeld's method."""

from torch import Tensor

from fedseca.reweighting import Space, check_space, global_model, reweighted_mean
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator


class RFA(VectorAggregator):
    r"""The point with the least sum of distances from all uploads, approached from zero.

    Repeat :math:`v \leftarrow \sum_k \beta_k x_k / \sum_k \beta_k` with
    :math:`\beta_k = 1 / \max(\nu, \|v - x_k\|_2)`, starting at :math:`v = 0`. In the released program :math:`x_k` are
    the clients' weights :math:`W - g_k`, and with few iterations the start at zero shows in the result; ``space``
    chooses. Uploads that hold NaN or infinity are left out.

    Source: Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
    Processing 2022, Algorithm 2.

    Args:
        iterations: How many steps, R.
        nu: Distances count as no less than this.
        space: ``weights`` (needs ``origin``) or ``updates``.

    Attributes:
        diagnostics: ``weights`` (K,) of the clients in the result, 0 for a dropped one; ``iterations``; and
            ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``iterations`` is less than 1, ``nu`` is not positive, ``space`` is unknown, no upload is finite, or
            the rule works on weights and got no ``origin``.

    Example:
        >>> import torch
        >>> uploads = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1e6, 0.0]])
        >>> RFA(iterations=50, space="updates")(uploads)
        tensor([1.0000, 0.0000])
    """

    def __init__(self, iterations: int = 3, nu: float = 1e-6, space: Space = "weights") -> None:
        super().__init__()
        if iterations < 1:
            raise UsageError(f"RFA: iterations must be at least 1, got {iterations}")
        if not nu > 0:
            raise UsageError(f"RFA: nu must be positive, got {nu}")
        check_space("RFA", space)
        self.iterations = iterations
        self.nu = nu
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
            "RFA",
            updates,
            global_model("RFA", origin, self.space),
            lambda distances: 1 / distances.clamp(min=self.nu),
            self.iterations,
        )
        return update
