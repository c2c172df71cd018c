"""Scores of images and texts: of their global vectors, fused with the local ones, and reranking by both."""

from collections.abc import Callable

import torch
from torch import Tensor

from shared.errors import UsageError

ALPHA = 0.8
"""Weight of the global score in the fused one, as in the authors' evaluation."""


def global_scores(images: Tensor, texts: Tensor) -> Tensor:
    """``(N, M)`` cosines ``G`` of ``(N, D)`` and ``(M, D)`` normalised vectors, in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    return images.to(dtype) @ texts.to(dtype).T


def fuse_scores(global_: Tensor, local: Tensor, alpha: float = ALPHA) -> Tensor:
    r"""Fused score :math:`F = \alpha G + (1 - \alpha) R`, of the same shape; at 1 and 0 one of the two, bit for bit.

    ``R`` is not rescaled, so ``F`` may exceed 1. Source: FineLIP's starred rows.

    Raises:
        UsageError: ``alpha`` is outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must lie in [0, 1], got {alpha}")
    if alpha in (0, 1):
        return global_ if alpha == 1 else local
    return alpha * global_ + (1 - alpha) * local


def rerank(global_: Tensor, rescore: Callable[[Tensor], Tensor], top: int) -> Tensor:
    """Order of the items for each query: the ``top`` by global score in the order of another score, then the rest.

    Items of equal score keep the order of their indices, in both parts.

    Args:
        global_: ``(Q, M)`` global scores.
        rescore: From ``(Q, top)`` indices of items to their ``(Q, top)`` exact scores.
        top: Items to score anew; 0 leaves the global order, ``M`` and more give that of the other score.

    Returns:
        ``(Q, M)`` indices, the best item first.

    Raises:
        UsageError: ``top`` is negative.

    Example:
        >>> g, f = torch.tensor([[0.9, 0.8, 0.1, 0.7]]), torch.tensor([[0.2, 0.3, 0.9, 0.1]])
        >>> rerank(g, lambda items: f.gather(1, items), 2).tolist()
        [[1, 0, 3, 2]]
    """
    if top < 0:
        raise UsageError(f"rerank_top must not be negative, got {top}")
    order = global_.argsort(dim=1, descending=True, stable=True)
    if top == 0:
        return order
    first = order[:, :top].sort(1).values
    best = rescore(first).argsort(dim=1, descending=True, stable=True)
    return torch.cat([first.gather(1, best), order[:, top:]], 1)
