"""Barlow Twins: the cross-correlation of two views shall be the identity."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from shared.distributed import whole_batch
from shared.errors import RunError
from shared.precision import at_least_float32, full_precision

LAMBDA = 0.0051
EPS = 1e-5
MOMENTUM = 0.1
GRAM_BELOW = 0.75
"""Share of the width below which a batch is so small that its Gram matrices are cheaper; measured on a CPU."""
CHUNK, FEWEST = 2**18, 512
"""Elements of the columns that are worked on at a time where Gram matrices are taken, and the fewest columns."""


class _CrossCorrelationPenalty(torch.autograd.Function):
    """See :func:`cross_correlation_penalty`; forms the ``D x D`` matrix."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, lambda_: float) -> Tensor:
        c = a.T @ b / len(a)
        diagonal = c.diagonal().clone()
        c.fill_diagonal_(0)
        ctx.save_for_backward(a, b, diagonal, c)
        ctx.lambda_ = lambda_
        return (diagonal - 1).square().sum() + lambda_ * torch.dot(c.flatten(), c.flatten())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b, diagonal, c = ctx.saved_tensors
        with full_precision(a.device):
            factor, of_diagonal = 2 * ctx.lambda_ / len(a) * grad, grad * 2 * (diagonal - 1) / len(a)
            grad_a = (b @ c.T).mul_(factor).addcmul_(b, of_diagonal)
            grad_b = (a @ c).mul_(factor).addcmul_(a, of_diagonal)
        return grad_a, grad_b, None


class _GramPenalty(torch.autograd.Function):
    """The same of views that are yet to be normalised, and the moments ``(2, 2, D)`` of both, mean and variance.

    Everything but the two Gram matrices falls apart into columns. So a few columns at a time are normalised, in the
    forward as in the backward pass, and of all tensors of the size of a view only the two gradients are held.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, lambda_: float, given: Tensor | None) -> tuple[Tensor, Tensor]:
        n, width = x.shape
        dtype = torch.promote_types(x.dtype, torch.float32)
        moments = torch.empty(2, 2, width, dtype=dtype, device=x.device) if given is None else given
        grams, diagonal = moments.new_zeros(2, n, n), moments.new_empty(width)
        for columns in chunks(n, width):
            parts = [view[:, columns].to(dtype, copy=True) for view in (x, y)]
            for part, gram, moment in zip(parts, grams, moments[..., columns], strict=True):
                if given is None:
                    moment[1], moment[0] = torch.var_mean(part, 0, correction=0)
                normalise_(part, moment)
                gram.addmm_(part, part.T)
            diagonal[columns] = torch.linalg.vecdot(*parts, dim=0) / n
        off = torch.dot(grams[0].flatten(), grams[1].flatten()) / n**2 - diagonal.square().sum()
        ctx.save_for_backward(x, y, moments, diagonal, grams)
        ctx.lambda_, ctx.through_moments = lambda_, given is None
        ctx.mark_non_differentiable(moments)
        return (diagonal - 1).square().sum() + lambda_ * off, moments

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, y, moments, diagonal, grams = ctx.saved_tensors
        n, lambda_ = len(x), ctx.lambda_
        grads = torch.empty_like(x), torch.empty_like(y)
        with full_precision(x.device):
            # d||C||^2/dA = 2 (B B') A / n^2, of which the diagonal's part is taken back.
            of_diagonal = grad * (2 * (diagonal - 1) - 2 * lambda_ * diagonal) / n
            across = grams.flip(0) * (2 * lambda_ / n**2 * grad)
            for columns in chunks(*x.shape):
                parts = [
                    normalise_(view[:, columns].to(moments.dtype, copy=True), moment[:, columns])
                    for view, moment in zip((x, y), moments, strict=True)
                ]
                for a, b, gram, moment, out in zip(parts, parts[::-1], across, moments, grads, strict=True):
                    g = (gram @ a).addcmul_(b, of_diagonal[columns])
                    if ctx.through_moments:
                        along = torch.linalg.vecdot(g, a, dim=0) / n
                        g.sub_(g.mean(0)).addcmul_(a, along, value=-1)
                    out[:, columns] = g.mul_((moment[1, columns] + EPS).rsqrt_())
        return *grads, None, None


def chunks(rows: int, width: int) -> Iterator[slice]:
    """Slices of columns, as many of so many rows as make :data:`CHUNK`, for products of narrow ones are slow."""
    size = max(FEWEST, CHUNK // rows)
    return (slice(first, first + size) for first in range(0, width, size))


def normalise_(x: Tensor, moments: Tensor) -> Tensor:
    """Columns less their mean, over the root of their variance plus :data:`EPS`, in place."""
    return x.sub_(moments[0]).mul_((moments[1] + EPS).rsqrt_())


def gram_is_cheaper(rows: int, width: int) -> bool:
    """Whether two Gram matrices of the rows cost less than one product of the columns."""
    return rows < GRAM_BELOW * width


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
        gram = gram_is_cheaper(*a.shape)
    with full_precision(a.device):
        if not gram:
            return _CrossCorrelationPenalty.apply(a, b, lambda_)  # type: ignore[no-any-return]
        as_they_are = torch.stack([torch.zeros_like(a[0]), torch.ones_like(a[0]) - EPS]).expand(2, -1, -1)
        return _GramPenalty.apply(a, b, lambda_, as_they_are)[0]  # type: ignore[no-any-return]


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
        """``(n, D)`` with mean 0 and variance 1 over the batch, or as the running statistics say."""
        mean, variance = (buffer.to(z.dtype) for buffer in (self.running_mean, self.running_var))
        normalised = F.batch_norm(z, mean, variance, training=self.training, momentum=MOMENTUM, eps=EPS)
        if self.training and mean is not self.running_mean:  # a model that is in half precision throughout
            self.running_mean.copy_(mean)
            self.running_var.copy_(variance)
        return normalised

    def follow(self, moments: Tensor, n: int) -> None:
        """Let the running statistics follow the mean and the variance of a view; as in BatchNorm, of all images."""
        self.running_mean.lerp_(moments[0].to(self.running_mean), MOMENTUM)
        self.running_var.lerp_((moments[1] * (n / (n - 1))).to(self.running_var), MOMENTUM)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """The loss of ``(B, D)`` embeddings of two views.

        Raises:
            RunError: A batch of one image, which has no variance.
        """
        with full_precision(z1.device):
            z1, z2 = whole_batch(z1), whole_batch(z2)
            n, width = z1.shape
            if self.training and n < 2:
                raise RunError(f"a batch must hold at least 2 images for Barlow Twins to train on, got {n}")
            if not gram_is_cheaper(n, width):
                z1, z2 = at_least_float32(z1), at_least_float32(z2)
                return cross_correlation_penalty(self.normalise(z1), self.normalise(z2), self.lambda_, gram=False)
            if not self.training:
                running = at_least_float32(torch.stack([self.running_mean, self.running_var])).expand(2, -1, -1)
                return _GramPenalty.apply(z1, z2, self.lambda_, running)[0]  # type: ignore[no-any-return]
            loss, moments = _GramPenalty.apply(z1, z2, self.lambda_, None)
            for view in moments:
                self.follow(view, n)
            return loss  # type: ignore[no-any-return]
