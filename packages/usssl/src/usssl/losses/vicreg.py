"""VICReg: views agree, every dimension varies, no two dimensions vary together."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shared.distributed import whole_batch
from shared.errors import RunError
from shared.precision import at_least_float32, full_precision

GRAM_BELOW = 1.0
"""Share of the width below which a batch is so small that its Gram matrix is cheaper, by count of operations."""


class _VarianceCovariance(torch.autograd.Function):
    """See :func:`variance_covariance`."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weights: tuple[float, float], eps: float, gram: bool) -> Tensor:
        n, d = z.shape
        centred = z - z.mean(0)
        variance = torch.einsum("nd,nd->d", centred, centred) / (n - 1)
        deviation = (variance + eps).sqrt()
        product = centred @ centred.T if gram else centred.T @ centred
        if gram:
            off = torch.dot(product.flatten(), product.flatten()) / (n - 1) ** 2 - variance.square().sum()
        else:
            product.fill_diagonal_(0)
            off = torch.dot(product.flatten(), product.flatten()) / (n - 1) ** 2
        ctx.save_for_backward(centred, variance, deviation, product)
        ctx.weights, ctx.gram = weights, gram
        return weights[0] * (1 - deviation).relu().mean() + weights[1] * off / d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        centred, variance, deviation, product = ctx.saved_tensors
        n, d = centred.shape
        of_variance, of_covariance = ctx.weights
        # Each term is linear in the centred batch, whose columns have mean 0, so the gradient of centring changes none.
        with full_precision(centred.device):
            scale = -of_variance * (deviation < 1) / (deviation * (d * (n - 1)))
            factor = 4 * of_covariance / (d * (n - 1) ** 2)
            if ctx.gram:
                scale = scale - 4 * of_covariance / (d * (n - 1)) * variance
                whole = product @ centred
            else:
                whole = centred @ product
            return torch.addcmul(whole * (factor * grad), centred, scale * grad), None, None, None


def variance_covariance(
    z: Tensor, variance: float = 1.0, covariance: float = 1.0, eps: float = 1e-4, gram: bool | None = None
) -> Tensor:
    r"""The two terms of VICReg that look at one view, weighed.

    .. math:: \text{variance} \cdot \frac1D \sum_i \max\left(0, 1 - \sqrt{\mathrm{Cov}_{ii} + \epsilon}\right)
        + \text{covariance} \cdot \frac1D \sum_{i \ne j} \mathrm{Cov}_{ij}^2, \qquad
        \mathrm{Cov} = \frac{1}{n-1} \sum_k (z_k - \bar z)(z_k - \bar z)^\top

    For a batch smaller than its width ``Cov`` is never formed; see
    :func:`~usssl.losses.barlow_twins.cross_correlation_penalty`.

    Source: Bardes, Ponce, LeCun, "VICReg", ICLR 2022, eqs. 1 to 4.

    Args:
        z: ``(n, D)`` embeddings of one view, float32 or float64.
        variance: Weight of the first term.
        covariance: Weight of the second.
        eps: Keeps the root differentiable.
        gram: Whether to take the Gram matrix; ``None``: where it is cheaper.

    Raises:
        RunError: Fewer than two images, which have no variance.
    """
    if len(z) < 2:
        raise RunError(f"a batch must hold at least 2 images for VICReg, got {len(z)}")
    if gram is None:
        gram = len(z) < GRAM_BELOW * z.shape[1]
    with full_precision(z.device):
        return _VarianceCovariance.apply(z, (variance, covariance), eps, gram)  # type: ignore[no-any-return]


def vicreg_loss(
    z1: Tensor, z2: Tensor, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    r"""VICReg's loss of two views, over the batch of all processes.

    .. math:: L = \text{invariance} \cdot \overline{(z_1 - z_2)^2} + \text{variance} \cdot \tfrac12 (v_1 + v_2)
        + \text{covariance} \cdot (c_1 + c_2)

    The first is the mean over all elements; for ``v`` and ``c`` see :func:`variance_covariance`.

    Args:
        z1: ``(B, D)`` embeddings of one view.
        z2: ``(B, D)`` of the other.
        invariance: Weight of the agreement.
        variance: Weight of the variance.
        covariance: Weight of the covariance.

    Example:
        >>> round(vicreg_loss(torch.zeros(4, 3), torch.zeros(4, 3)).item(), 4)
        24.75
    """
    with full_precision(z1.device):
        z1, z2 = (whole_batch(at_least_float32(z)) for z in (z1, z2))
        agreement = invariance * (z1 - z2).square().mean()
        return agreement + sum(variance_covariance(z, variance / 2, covariance) for z in (z1, z2))
