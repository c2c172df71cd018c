"""FLTrust: clients count as far as they point where clean data points."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, norms_and_products, squared_norms
from shared.errors import RunError, UsageError
from shared.federated.aggregation import VectorAggregator


class FLTrust(VectorAggregator):
    r"""The mean of the uploads, at the length of the server's own update, weighted by their agreement with it.

    With the ``reference`` :math:`g_0` that the server trained on clean data, the trust in a client is
    :math:`t_k = \max(0, \cos(g_k, g_0))`, and :math:`m = \sum_k t_k \frac{\|g_0\|}{\|g_k\|} g_k / \sum_k t_k`. Where
    nobody is trusted the model stays as it is. Uploads that hold NaN or infinity are left out.

    Source: Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021,
    Algorithm 2.

    Attributes:
        diagnostics: ``trust`` (K,), 0 for a dropped upload, and ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: No ``reference`` came, it has another length than the uploads, or no upload is finite.
        RunError: The reference is not finite.

    Example:
        >>> uploads = torch.tensor([[0.0, 8.0], [3.0, 3.0], [-1.0, -9.0]])
        >>> FLTrust()(uploads, reference=torch.tensor([0.0, 2.0]))
        tensor([0.5858, 1.7574])
    """

    needs_reference = True

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
        # The base class has refused to go on without one.
        assert reference is not None
        if reference.shape != updates.shape[1:]:
            raise UsageError(f"FLTrust: the reference must have {updates.shape[1]} coordinates, got {len(reference)}")
        squared, along = norms_and_products(updates, reference)
        kept = finite_clients(squared, "FLTrust")
        norms = squared[kept].sqrt()
        length = squared_norms(reference[None])[0].sqrt()
        if not torch.isfinite(length):
            raise RunError(f"FLTrust: the reference update of round {round} is not finite")
        along = along[kept]
        # A norm below the smallest normal number is no direction, and its inverse would overflow.
        directed = norms > torch.finfo(updates.dtype).tiny
        trust = torch.where(directed & (length > 0), along / (norms * length), 0.0).clamp(0, 1)
        factors = torch.where(trust > 0, trust / trust.sum() * length / norms, 0.0)
        everyone = trust.new_zeros(len(updates))
        everyone[kept] = trust
        self.diagnostics = {"trust": everyone, "dropped": torch.tensor(len(updates) - len(kept))}
        return combinations(factors[None], updates, kept)[0]
