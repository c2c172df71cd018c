"""Monitors of collapse: whether embeddings still differ."""

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_deviation(z: Tensor) -> Tensor:
    r"""Mean standard deviation of the unit vectors' coordinates, times :math:`\sqrt D`.

    Vectors spread evenly over the sphere have a deviation of :math:`1 / \sqrt D` in each coordinate, which gives 1;
    equal vectors give 0. Source: Chen, He, "SimSiam", CVPR 2021, section 4.1.

    Args:
        z: ``(B, D)``, B >= 2.

    Example:
        >>> relative_deviation(torch.eye(4)[[0, 0, 0]]).item()
        0.0
    """
    return F.normalize(z.float(), dim=1).std(0).mean() * z.shape[1] ** 0.5


def effective_rank(z: Tensor) -> Tensor:
    r"""Exponential of the entropy of the singular values' shares, between 1 and ``min(B, D)``.

    Source: Roy, Vetterli, EUSIPCO 2007; Garrido et al., "RankMe", ICML 2023. Through the eigenvalues of the smaller of
    :math:`z z^\top` and :math:`z^\top z`, in float64.

    Args:
        z: ``(B, D)``.

    Example:
        >>> round(effective_rank(torch.eye(8)[:3]).item(), 4), round(effective_rank(torch.ones(8, 3)).item(), 4)
        (3.0, 1.0)
    """
    z = z.double()
    gram = z @ z.T if len(z) < z.shape[1] else z.T @ z
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    # Rounding leaves eigenvalues of about eps where there are none, whose roots would count.
    values = values.where(values > values[-1] * len(gram) * torch.finfo(z.dtype).eps, 0.0).sqrt()
    shares = values / values.sum().clamp(min=torch.finfo(z.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def collapse_monitors(z: Tensor) -> dict[str, Tensor]:
    """Both monitors by name; empty where the batch is too small to tell."""
    if len(z) < 2:
        return {}
    return {"collapse/relative_deviation": relative_deviation(z), "collapse/effective_rank": effective_rank(z)}
