"""FILIP: late interaction of all patches and words, contrasted in each direction by its own score."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.clim import local_scores
from finelip.finelip import FineLIP
from finelip.losses.info_nce import info_nce
from finelip.losses.loss import EncodedBatch, Loss
from shared.distributed import whole_batch


def patches_and_words(batch: EncodedBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised ``(B, P, D)`` patches, ``(B, L, D)`` text tokens before the end token, and the mask of these."""
    words = batch.text_tokens[:, :-1]
    mask = torch.arange(words.shape[1], device=words.device) < (batch.lengths - 1)[:, None]
    return F.normalize(batch.image_tokens[:, 1:], dim=-1), F.normalize(words, dim=-1), mask


class FilipLoss(Loss):
    r"""Contrast of patches and words.

    .. math:: s^{I}_{ij} = \frac1P \sum_p \max_w v_p \cdot t_w, \qquad
        s^{T}_{ij} = \frac1W \sum_w \max_p v_p \cdot t_w, \qquad
        L = \tfrac12 \left( \mathrm{CE}(e^s s^I_{i\cdot}, i) + \mathrm{CE}(e^s s^T_{\cdot j}, j) \right)

    Source: Yao et al., "FILIP", ICLR 2022, equations 4 to 6.
    """

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        patches, words, mask = patches_and_words(batch)
        patches = whole_batch(patches)
        of_images = local_scores(patches, words, None, mask, direction="i2t", slope=1, tile_bytes=model.tile_bytes)
        of_texts = local_scores(patches, words, None, mask, direction="t2i", slope=1, tile_bytes=model.tile_bytes)
        return info_nce(whole_batch(of_images.T).T, whole_batch(of_texts.T).T, model.logit_scale)
