"""Barlow Twins: the cross-correlation of two views shall be the identity."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shared.distributed import whole_batch
from shared.errors import RunError
from shared.precision import at_least_float32, full_precision

LAMBDA = 0.0051
GRAM_BELOW = 1.0
"""Share of the width below which a batch is so small that its Gram matrices are cheaper, by count of operations."""


class _CrossCorrelationPenalty(torch.autograd.Function):
    """See :func:`cross_correlation_penalty`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, lambda_: float, gram: bool) -> Tensor:
        n = len(a)
        diagonal = torch.einsum("nd,nd->d", a, b) / n
        if gram:
            gram_a, gram_b = a @ a.T, b @ b.T
            off = torch.dot(gram_a.flatten(), gram_b.flatten()) / n**2 - diagonal.square().sum()
            ctx.save_for_backward(a, b, diagonal, gram_a, gram_b)
        else:
            c = a.T @ b / n
            c.fill_diagonal_(0)
            off = torch.dot(c.flatten(), c.flatten())
            ctx.save_for_backward(a, b, diagonal, c)
        ctx.lambda_, ctx.gram = lambda_, gram
        return (diagonal - 1).square().sum() + lambda_ * off

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        a, b, diagonal, *products = ctx.saved_tensors
        n, lambda_ = len(a), ctx.lambda_
        with full_precision(a.device):
            factor = 2 * lambda_ / n * grad
            if ctx.gram:  # d||C||^2/dA = 2 (B B') A / n^2, of which the diagonal's part is taken back
                of_diagonal = grad * (2 * (diagonal - 1) - 2 * lambda_ * diagonal) / n
                gram_a, gram_b = products
                grad_a = torch.addcmul(gram_b @ a * (factor / n), b, of_diagonal)
                grad_b = torch.addcmul(gram_a @ b * (factor / n), a, of_diagonal)
            else:
                (c,) = products
                of_diagonal = grad * 2 * (diagonal - 1) / n
                grad_a = torch.addcmul(b @ c.T * factor, b, of_diagonal)
                grad_b = torch.addcmul(a @ c * factor, a, of_diagonal)
        return grad_a, grad_b, None, None


def cross_correlation_penalty(a: Tensor, b: Tensor, lambda_: float = LAMBDA, gram: bool | None = None) -> Tensor:
    r"""How far the cross-correlation of two normalised views is from the identity.

    .. math:: L = \sum_i (C_{ii} - 1)^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad C = A^\top B / n

    For a batch smaller than its width, ``C`` is never formed:
    :math:`\lVert A^\top B \rVert_F^2 = \langle A A^\top, B B^\top \rangle`, two matrices of ``n x n``.

    Source: Zbontar et al., "Barlow Twins", ICML 2021, eq. 1.

    Args:
        a: ``(n, D)`` normalised embeddings of one view, float32 or float64.
        b: ``(n, D)`` of the other.
        lambda_: Weight of the redundancy term.
        gram: Whether to take the Gram matrices; ``None``: where it is cheaper.

    Example:
        >>> one = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
        >>> cross_correlation_penalty(one, one), cross_correlation_penalty(one, -one)
        (tensor(0.), tensor(8.))
    """
    if gram is None:
        gram = len(a) < GRAM_BELOW * a.shape[1]
    with full_precision(a.device):
        return _CrossCorrelationPenalty.apply(a, b, lambda_, gram)  # type: ignore[no-any-return]


class BarlowTwinsLoss(nn.Module):
    """:func:`cross_correlation_penalty` of the views, each normalised over the batch by BatchNorm without affine part.

    One set of running statistics serves both views: in training it follows view 1, then view 2, and in evaluation it
    takes the place of the batch's own, so there the loss differs from the training loss of the same tensors. Variances
    are biased, with 1e-5 added. Under several processes the batch is that of all of them.

    Args:
        width: Width of the embeddings, ``D``.
        lambda_: Weight of the redundancy term.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int = 8192, lambda_: float = LAMBDA) -> None:
        super().__init__()
        self.lambda_ = lambda_
        # Buffers, and no BatchNorm1d: what is converted to count across processes must not count the gathered batch.
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def normalise(self, z: Tensor) -> Tensor:
        """``(n, D)`` with mean 0 and variance 1 over the batch, or as the running statistics say.

        Raises:
            RunError: A batch of one image, which has no variance.
        """
        if self.training and len(z) < 2:
            raise RunError(f"a batch must hold at least 2 images for Barlow Twins to train on, got {len(z)}")
        mean, variance = (buffer.to(z.dtype) for buffer in (self.running_mean, self.running_var))
        normalised = F.batch_norm(z, mean, variance, training=self.training, momentum=0.1, eps=1e-5)
        if self.training and mean is not self.running_mean:  # a model that is in half precision throughout
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
        return normalised

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of ``(B, D)`` embeddings of two views."""
        with full_precision(z1.device):
            z1, z2 = (whole_batch(at_least_float32(z)) for z in (z1, z2))
            return cross_correlation_penalty(self.normalise(z1), self.normalise(z2), self.lambda_)
