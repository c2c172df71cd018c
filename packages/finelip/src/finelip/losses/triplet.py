"""The paper's loss: a hinge on every pair of a true and a false score."""

import torch
from torch import Tensor

from finelip.finelip import FineLIP
from finelip.losses.loss import EncodedBatch, Loss, local_scores_of_all
from shared.distributed import whole_batch
from shared.errors import UsageError

MARGIN = 0.2


def triplet_hinge(scores: Tensor, pair_id: Tensor, margin: float = MARGIN, hardest: bool = False) -> Tensor:
    r"""Triplet loss over all false pairs of a batch, in both directions.

    .. math:: L = \sum_{i,j:\,p_i \ne p_j} [\alpha + R_{ij} - R_{ii}]_+ + [\alpha + R_{ij} - R_{jj}]_+

    A sum, not a mean. Pairs of equal id (the diagonal, several captions of one image) do not count. ``hardest`` keeps
    the largest term of each row in the first sum and of each column in the second.

    Source: FineLIP, section 3.5; Faghri et al., "VSE++", BMVC 2018, for ``hardest``.

    Args:
        scores: ``(B, B)``, true pairs on the diagonal.
        pair_id: ``(B,)``.
        margin: How much better a true pair shall be.
        hardest: Only the hardest false pair of each.

    Example:
        >>> r = torch.tensor([[0.5, 0.6], [0.4, 0.5]])
        >>> round(triplet_hinge(r, torch.arange(2)).item(), 4)
        0.8
    """
    true = scores.diagonal()
    same = pair_id[:, None] == pair_id
    of_image = (margin + scores - true[:, None]).clamp(min=0).masked_fill(same, 0)
    of_text = (margin + scores - true[None]).clamp(min=0).masked_fill(same, 0)
    if hardest:
        return of_image.max(1).values.sum() + of_text.max(0).values.sum()
    return of_image.sum() + of_text.sum()


class TripletHinge(Loss):
    """:func:`triplet_hinge` on the local scores.

    Args:
        margin: How much better a true pair shall be.
        hardest: Only the hardest false pair of each image and text.

    Raises:
        UsageError: ``margin`` is not positive.
    """

    uses_sets = True
    uses_scale = False

    def __init__(self, margin: float = MARGIN, hardest: bool = False) -> None:
        super().__init__()
        if not margin > 0:
            raise UsageError(f"margin must be positive, got {margin}")
        self.margin = margin
        self.hardest = hardest

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        scores = local_scores_of_all(model, batch)
        return triplet_hinge(scores, whole_batch(batch.pair_id), self.margin, self.hardest)


def margins_met(scores: Tensor, pair_id: Tensor, margin: float = MARGIN) -> Tensor:
    """Share of the false pairs that stay below both true ones by the margin, for the progress of training."""
    true = scores.diagonal()
    met = (scores + margin <= true[:, None]) & (scores + margin <= true[None])
    false = pair_id[:, None] != pair_id
    return met[false].float().mean() if false.any() else torch.ones((), device=scores.device)
