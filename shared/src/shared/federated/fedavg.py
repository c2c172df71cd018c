"""Federated averaging, the rule without a defence."""

from torch import Tensor

from shared.federated.aggregation import VectorAggregator


class FedAvg(VectorAggregator):
    r"""The weighted mean of the uploads, :math:`m = \sum_k w_k g_k`.

    Whether clients count equally or by their number of samples is decided by who sets the weights, not here. A single
    hostile client can move the mean anywhere.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
    Algorithm 1.

    Example:
        >>> import torch
        >>> updates = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
        >>> FedAvg()(updates)
        tensor([2., 4.])
        >>> FedAvg()(updates, weights=torch.tensor([0.75, 0.25]))
        tensor([1.5000, 3.0000])
    """

    streams = True

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
        return weights.to(updates) @ updates
