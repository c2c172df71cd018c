"""Fed-NGA: every client contributes a direction, nobody a length."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, squared_norms
from shared.federated.aggregation import VectorAggregator


class FedNGA(VectorAggregator):
    r"""The mean of the normalised uploads, :math:`m = \frac1K \sum_k g_k / \|g_k\|_2`.

    A zero upload has no direction and contributes zero. The result is never longer than 1, however long the uploads
    are and however small the learning rate is. Uploads that hold NaN or infinity are left out.

    Source: Zuo et al., "Byzantine-resilient Federated Learning Employing Normalized Gradients on Non-IID Datasets",
    arXiv 2408.09539.

    Attributes:
        diagnostics: ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: No upload is finite.

    Example:
        >>> FedNGA()(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1e9]]))
        tensor([ 0.2000, -0.0667])
    """

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
        squared = squared_norms(updates)
        kept = finite_clients(squared, "FedNGA")
        norms = squared[kept].sqrt()
        self.diagnostics = {"dropped": torch.tensor(len(updates) - len(kept))}
        # The inverse of a norm below the smallest normal number would overflow.
        factors = torch.where(norms > torch.finfo(updates.dtype).tiny, 1 / norms, 0.0)
        return combinations(factors[None] / len(kept), updates, kept)[0]
