"""BYOL: what is predicted from one view points where the target network sees the other."""

from torch import Tensor
from torch.nn import functional as F

from shared.precision import at_least_float32, full_precision


def byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    r"""One direction: :math:`2 - 2 \cos(p, \bar z)`, mean over the batch, in [0, 4].

    Source: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, eq. 2; it is 2 + 2 times lightly's
    ``NegativeCosineSimilarity``.

    Args:
        prediction: ``(B, D)``.
        target: ``(B, D)``, without gradient.

    Example:
        >>> import torch
        >>> p = torch.tensor([[3.0, 4.0]])
        >>> [byol_loss(p, t).item() for t in (p, -p, torch.tensor([[4.0, -3.0]]))]
        [0.0, 4.0, 2.0]
    """
    with full_precision(prediction.device):
        cosine = F.cosine_similarity(at_least_float32(prediction), at_least_float32(target), dim=1, eps=1e-8)
        return 2 - 2 * cosine.mean()
