"""How much the pictures of a set differ, as a fixed network sees them."""

from torch import Tensor
from torch.nn import functional as F


def feature_variance(features: Tensor) -> float:
    """Trace of the covariance of ``(N, F)`` features, N >= 2: the sum of their unbiased variances.

    Example:
        >>> import torch
        >>> feature_variance(torch.tensor([[0.0, 1.0], [2.0, 1.0]]))
        2.0
    """
    return float(features.double().var(0).sum())


def mean_cosine_distance(features: Tensor) -> float:
    r"""Mean of :math:`1 - \cos(h_i, h_j)` over all pairs of two different ones of ``(N, F)`` features, N >= 2.

    From :math:`\lVert \sum_i u_i \rVert^2 = N + \sum_{i \ne j} u_i^\top u_j` of the unit vectors.

    Example:
        >>> import torch
        >>> mean_cosine_distance(torch.eye(3))
        1.0
    """
    units = F.normalize(features.double(), dim=1)
    n = len(units)
    return float(1 - (units.sum(0).square().sum() - n) / (n * (n - 1)))
