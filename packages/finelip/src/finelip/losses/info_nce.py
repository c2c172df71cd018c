"""Contrastive losses on global and on local scores."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.finelip import FineLIP
from finelip.losses.loss import EncodedBatch, Loss, global_scores_of_all, local_scores_of_all
from shared.errors import UsageError

SMOOTHING = 0.1


def info_nce(images: Tensor, texts: Tensor, logit_scale: Tensor, smoothing: float = 0.0) -> Tensor:
    r"""Cross-entropy of the true text among all, and of the true image, averaged.

    .. math:: L = \tfrac12 \left( \mathrm{CE}(e^s S^{(1)}_{i\cdot}, i) + \mathrm{CE}(e^s S^{(2)}_{\cdot j}, j) \right)

    Source: Radford et al., "CLIP", ICML 2021, figure 3, where both matrices are the cosines.

    Args:
        images: ``(B, B)`` scores by which images choose texts (rows).
        texts: ``(B, B)`` scores by which texts choose images (columns); often the same matrix.
        logit_scale: Logarithm ``s`` of the inverse temperature.
        smoothing: Share of the target that is spread over all.

    Example:
        >>> round(info_nce(torch.zeros(4, 4), torch.zeros(4, 4), torch.tensor(0.0)).item(), 6)  # ln 4
        1.386294
    """
    target = torch.arange(len(images), device=images.device)
    scale = logit_scale.exp()
    rows = F.cross_entropy(scale * images, target, label_smoothing=smoothing)
    columns = F.cross_entropy(scale * texts.T, target, label_smoothing=smoothing)
    return (rows + columns) / 2


def check_smoothing(smoothing: float) -> None:
    """Refuse a label smoothing outside [0, 1)."""
    if not 0 <= smoothing < 1:
        raise UsageError(f"smoothing must lie in [0, 1), got {smoothing}")


class GlobalInfoNCE(Loss):
    """The baseline: :func:`info_nce` on the cosines of the global vectors, with the model's ``logit_scale``.

    Args:
        smoothing: Label smoothing, 0.1 in the authors' baseline.
    """

    def __init__(self, smoothing: float = SMOOTHING) -> None:
        super().__init__()
        check_smoothing(smoothing)
        self.smoothing = smoothing

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        scores = global_scores_of_all(model, batch)
        return info_nce(scores, scores, model.logit_scale, self.smoothing)


class LocalInfoNCE(Loss):
    """:func:`info_nce` on the local scores; the temperature is learned as ``logit_scale``.

    Args:
        smoothing: Label smoothing.
    """

    uses_sets = True

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        check_smoothing(smoothing)
        self.smoothing = smoothing

    def forward(self, model: FineLIP, batch: EncodedBatch) -> Tensor:
        scores = local_scores_of_all(model, batch)
        return info_nce(scores, scores, model.logit_scale, self.smoothing)
