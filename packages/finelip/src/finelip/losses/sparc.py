"""SPARC: every word finds its patches, and is told from the other words of its caption by them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.finelip import FineLIP
from finelip.losses.filip import patches_and_words
from finelip.losses.info_nce import info_nce
from finelip.losses.loss import EncodedBatch, Loss, global_scores_of_all
from shared.distributed import whole_batch
from shared.errors import UsageError

TINY = 1e-8


def grouped_embeddings(patches: Tensor, words: Tensor) -> Tensor:
    r"""The patches that a word stands for, weighted.

    .. math:: \hat s_{wp} = \frac{s_{wp} - \min_p s_{wp}}{\max_p s_{wp} - \min_p s_{wp}}, \qquad
        \tilde s_{wp} = \hat s_{wp} [\hat s_{wp} \ge \tfrac1P], \qquad
        c_w = \sum_p \frac{\tilde s_{wp}}{\sum_q \tilde s_{wq}} v_p, \qquad s_{wp} = t_w \cdot v_p

    Source: Bica et al., "SPARC", ICML 2024, section 3.2.

    Args:
        patches: ``(B, P, D)``.
        words: ``(B, W, D)``.

    Returns:
        ``(B, W, D)``.
    """
    s = words @ patches.mT
    low, high = s.amin(2, keepdim=True), s.amax(2, keepdim=True)
    s = (s - low) / (high - low).clamp(min=TINY)
    s = torch.where(s >= 1 / patches.shape[1], s, 0.0)
    return s / s.sum(2, keepdim=True).clamp(min=TINY) @ patches


def within_captions(grouped: Tensor, words: Tensor, mask: Tensor, logit_scale: Tensor) -> Tensor:
    """Cross-entropy of each word with its own grouped embedding among those of its caption, both ways.

    Averaged over the words of a caption, then over captions.

    Args:
        grouped: ``(B, W, D)``.
        words: ``(B, W, D)``.
        mask: ``(B, W)``, true where a word is no padding.
        logit_scale: Logarithm of the inverse temperature.
    """
    logits = logit_scale.exp() * F.normalize(grouped, dim=-1) @ F.normalize(words, dim=-1).mT
    logits = logits.float().masked_fill(~(mask[:, None] & mask[:, :, None]), -1e9)
    true = logits.diagonal(dim1=1, dim2=2)
    losses = (logits.logsumexp(1) - true + logits.logsumexp(2) - true) / 2
    return (losses.masked_fill(~mask, 0).sum(1) / mask.sum(1)).mean()


class SparcLoss(Loss):
    """The sum of :func:`~finelip.losses.info_nce.info_nce` of global vectors and :func:`within_captions`.

    Args:
        global_weight: Of the first.
        local_weight: Of the second.
    """

    def __init__(self, global_weight: float = 1.0, local_weight: float = 0.5) -> None:
        super().__init__()
        if min(global_weight, local_weight) < 0:
            raise UsageError(f"SPARC weights must not be negative, got {global_weight} and {local_weight}")
        self.global_weight = global_weight
        self.local_weight = local_weight

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        scores = global_scores_of_all(model, batch)
        patches, words, mask = patches_and_words(batch)
        # Every caption is on its own here, so the mean over processes is that of their values.
        local = within_captions(grouped_embeddings(patches, words), words, mask, model.logit_scale)
        return (
            self.global_weight * info_nce(scores, scores, model.logit_scale)
            + self.local_weight * whole_batch(local[None]).mean()
        )
