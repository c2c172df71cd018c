"""DOS, Distance-based Outlier Suppression: clients count less the stranger their distances from the others are."""

import torch
from torch import Tensor

from fedseca.blocks import combinations, finite_clients, squared_distances
from fedseca.copod import copod
from fedseca.reweighting import Space, check_space, frame, global_model, products_with
from shared.federated.aggregation import VectorAggregator


def cosine_distances(squared_distances: Tensor, squared_norms: Tensor, excess: Tensor) -> Tensor:
    r"""One less the cosines of all pairs, without subtracting two numbers that nearly agree.

    Uploads of one round are nearly parallel, so their cosines are 1 to many digits. From
    :math:`\|x-y\|^2 = (\|x\|-\|y\|)^2 + 2\|x\|\|y\|(1-\cos)` follows what is left.

    Args:
        squared_distances: ``(K, K)``.
        squared_norms: ``(K,)``.
        excess: ``(K,)`` squared norms less any constant: their differences to more digits.

    Returns:
        ``(K, K)``; 1 where a vector is zero.

    Example:
        >>> cosine_distances(torch.tensor([[0.0, 8.0], [8.0, 0.0]]), torch.tensor([4.0, 4.0]), torch.zeros(2))
        tensor([[0., 1.],
                [1., 0.]])
    """
    norms = squared_norms.sqrt()
    sums, scale = norms[:, None] + norms, norms[:, None] * norms
    between = torch.where(sums > 0, (excess[:, None] - excess) / sums, 0.0)
    return torch.where(scale > 0, (squared_distances - between.square()).relu() / (2 * scale), 1.0)


class DOS(VectorAggregator):
    r"""The mean of the uploads with weights :math:`\mathrm{softmax}(-a)`, where :math:`a_k` tells how odd client k is.

    Two ``(K, K)`` tables, of Euclidean distances and of one less the cosines between clients, are each scored row by
    row by :func:`fedseca.copod.copod`; ``a`` is the sum of both scores. In the released program the vectors are the
    clients' weights :math:`W - g_k`, which changes the cosines; ``space`` chooses. One pass over the uploads gives all
    inner products, a second one the mean. Uploads that hold NaN or infinity are left out.

    Source: Alkhunaizi et al., "Suppressing Poisoning Attacks on Federated Learning for Medical Imaging", MICCAI 2022,
    Algorithm 1.

    Args:
        space: ``weights`` (needs ``origin``) or ``updates``.

    Attributes:
        diagnostics: ``scores`` (K,), NaN for a dropped upload; ``weights`` (K,) of the clients in the result, 0 for a
            dropped one; and ``dropped``, how many uploads were not finite.

    Raises:
        UsageError: ``space`` is unknown, no upload is finite, or the rule works on weights and got no ``origin``.

    Example:
        >>> rule = DOS(space="updates")
        >>> update = rule(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-1.0, 9.0]]))
        >>> rule.diagnostics["weights"].argmin()
        tensor(3)
    """

    def __init__(self, space: Space = "weights") -> None:
        super().__init__()
        check_space("DOS", space)
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
        model = global_model("DOS", origin, self.space)
        products = products_with(updates, model)
        own = products[: len(updates), : len(updates)]
        kept = finite_clients(own.diagonal(), "DOS")
        squared = squared_distances(updates, products=own)[kept][:, kept]
        points, inner = frame(products, kept, model is not None)
        norms = ((points @ inner) * points).sum(1)
        # The squared norm of the model is common to all; it would drown what sets them apart.
        excess = own.diagonal()[kept]
        if model is not None:
            excess = excess - 2 * inner[-1, :-1]
        scores = copod(squared.sqrt()) + copod(cosine_distances(squared, norms, excess))
        shares = torch.softmax(-scores, 0)
        self.diagnostics = {
            "scores": scores.new_full((len(updates),), torch.nan),
            "weights": scores.new_zeros(len(updates)),
            "dropped": torch.tensor(len(updates) - len(kept)),
        }
        self.diagnostics["scores"][kept] = scores
        self.diagnostics["weights"][kept] = shares
        return combinations(shares[None], updates, kept)[0]
