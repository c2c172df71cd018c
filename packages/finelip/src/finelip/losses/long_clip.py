"""Long-CLIP's loss: long captions against images, short ones against the main components of images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.finelip import FineLIP
from finelip.losses.info_nce import SMOOTHING, check_smoothing, info_nce
from finelip.losses.loss import EncodedBatch, Loss, global_scores_of_all
from finelip.scores import global_scores
from shared.distributed import whole_batch
from shared.errors import UsageError
from shared.precision import at_least_float32, full_precision

COMPONENTS = 32


def main_components(features: Tensor, components: int = COMPONENTS) -> Tensor:
    r"""Features rebuilt from the main components of their batch.

    .. math:: \hat X = \bar x + (X - \bar x) V_k V_k^\top, \qquad X - \bar x = U S V^\top

    The basis ``V_k`` counts as a constant: the gradient of singular vectors is unbounded where singular values are
    equal, as the zeros beyond rank ``B - 1`` are.

    Source: Zhang et al., "Long-CLIP", ECCV 2024, section 3.2.

    Args:
        features: ``(B, D)``, taken to float32 at least.
        components: Number ``k``; more than the rank changes nothing, 0 gives the mean.

    Raises:
        UsageError: ``components`` is negative.

    Example:
        >>> main_components(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), 0)
        tensor([[2., 0.],
                [2., 0.]])
    """
    if components < 0:
        raise UsageError(f"components must not be negative, got {components}")
    with full_precision(features.device):
        x = at_least_float32(features)
        mean = x.mean(0)
        centred = x - mean
        basis = torch.linalg.svd(centred.detach(), full_matrices=False).Vh[:components]
        return mean + centred @ basis.T @ basis


class LongClipLoss(Loss):
    """The sum of :func:`info_nce` of long captions with images, and of short captions with :func:`main_components`.

    The components are those of the batch of all processes; the authors take each process's own.

    Args:
        components: Of the images, for short captions.
        smoothing: Label smoothing of both terms.
        short_weight: Weight of the second term.
    """

    uses_short = True

    def __init__(self, components: int = COMPONENTS, smoothing: float = SMOOTHING, short_weight: float = 1.0) -> None:
        super().__init__()
        check_smoothing(smoothing)
        if components < 1:
            raise UsageError(f"components must be at least 1, got {components}")
        self.components = components
        self.smoothing = smoothing
        self.short_weight = short_weight

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        long = global_scores_of_all(model, batch)
        images = whole_batch(model.refine_image(batch.image_tokens).vector)
        short = global_scores(main_components(images, self.components), short_vectors(batch))
        return info_nce(long, long, model.logit_scale, self.smoothing) + self.short_weight * info_nce(
            short, short, model.logit_scale, self.smoothing
        )


def short_vectors(batch: EncodedBatch) -> Tensor:
    """``(B, D)`` normalised embeddings of the short captions of all processes."""
    tokens, lengths = batch.short()
    rows = torch.arange(len(tokens), device=tokens.device)
    return whole_batch(F.normalize(tokens[rows, lengths - 1], dim=-1))
