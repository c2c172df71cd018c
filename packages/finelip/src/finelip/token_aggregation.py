"""Adaptive token refinement: many tokens condensed into few by learned weights."""

import torch
from torch import Tensor, nn

from shared.errors import UsageError

HIDDEN_RATIO = 0.2


def aggregate(tokens: Tensor, scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(B, K, D)`` mixtures of ``(B, N, D)`` tokens, weighted by the softmax of the scores over the tokens.

    Args:
        tokens: As they are: neither normalised nor layer-normalised.
        scores: ``(B, N, K)``; their softmax is taken in float32.
        mask: ``(B, N)``, true where a token is no padding; ``None``: all are.

    Example:
        >>> aggregate(torch.tensor([[[1.0], [3.0]]]), torch.zeros(1, 2, 2))
        tensor([[[2.],
                 [2.]]])
    """
    if mask is not None:
        tokens = tokens.masked_fill(~mask[..., None], 0)  # a weight of zero does not silence a NaN
    return mixture_weights(scores, mask).to(tokens.dtype) @ tokens


def mixture_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(B, K, N)`` float32 weights of the mixtures of :func:`aggregate`; those of each sum to 1."""
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None], -torch.inf)
    return scores.softmax(1, dtype=torch.float32).mT


class TokenAggregation(nn.Module):
    r"""The token refinement of one modality (ATRM).

    .. math:: H = \mathrm{GELU}(\mathrm{LN}(X) W_1 + b_1), \qquad A = s\,(H W_2 + b_2)^\top, \qquad
        X' = \mathrm{softmax}_N(A)\, X

    ``s`` is a learned number that starts at 1. The paper writes it as a temperature and has neither layer norm nor
    biases; this is the authors' code.

    Source: FineLIP, section 3.3; Fu et al., "LAPS", CVPR 2024.

    Args:
        dim: Width ``D`` of the tokens.
        k: Tokens to condense into.

    Raises:
        UsageError: ``k`` is less than 1.

    Example:
        >>> sum(p.numel() for p in TokenAggregation(512, 39).parameters())
        57368
    """

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        if k < 1:
            raise UsageError(f"the number of refined tokens must be at least 1, got {k}")
        hidden = int(dim * HIDDEN_RATIO)
        self.weight = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, k))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))
        self.k = k

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, K, D)`` refined tokens.

        Args:
            tokens: ``(B, N, D)``.
            mask: ``(B, N)``, true where a token is no padding.
        """
        return aggregate(tokens, self.scores(tokens), mask)

    def scores(self, tokens: Tensor) -> Tensor:
        """``(B, N, K)`` scores of the tokens, before the softmax."""
        return self.weight(tokens) * self.scale
