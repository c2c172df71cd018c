"""Keep the tokens that matter and melt the others into one, before or after aggregation."""

import torch
from torch import Tensor
from torch.nn import functional as F

from finelip.token_aggregation import TokenAggregation


def masked_mean(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """``(B, D)`` mean of the tokens that are no padding."""
    if mask is None:
        return tokens.mean(1)
    return tokens.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def significance(tokens: Tensor, mask: Tensor | None = None, text: Tensor | None = None) -> Tensor:
    """``(B, N)`` cosine of each token with the mean of its set, plus that with a text's mean token; no gradient.

    Source: Fu et al., "LAPS", CVPR 2024, section 3.2.

    Args:
        tokens: ``(B, N, D)``.
        mask: ``(B, N)``, true where a token is no padding.
        text: ``(D,)`` or ``(B, D)`` mean token of the text that is asked about; ``None``: the set speaks for itself.
    """
    unit = F.normalize(tokens, dim=-1)
    scores = unit @ F.normalize(masked_mean(tokens, mask), dim=-1)[..., None]
    if text is not None:
        scores = scores + unit @ F.normalize(text.expand(len(tokens), -1), dim=-1)[..., None]
    return scores[..., 0]


def select(scores: Tensor, ratio: float, mask: Tensor | None = None) -> Tensor:
    """``(B, N)`` true for the ``ceil(ratio n)`` highest scores of each set of ``n`` tokens; ties go to the first.

    Example:
        >>> select(torch.tensor([[0.1, 0.9, 0.5]]), 0.5)
        tensor([[False,  True,  True]])
    """
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    keep = torch.ceil(ratio * mask.sum(1, keepdim=True) - 1e-6)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.zeros_like(mask).scatter(1, order, places < keep) & mask


def fuse(tokens: Tensor, scores: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """One token of each set: the mixture of ``rest`` by the softmax of their scores.

    Args:
        tokens: ``(B, N, D)``.
        scores: ``(B, N)``.
        rest: ``(B, N)``, true for the tokens to fuse.

    Returns:
        ``(B, 1, D)``, and ``(B, 1)``, false where there was nothing to fuse.
    """
    some = rest.any(1, keepdim=True)
    weights = scores.masked_fill(~rest & some, -torch.inf).softmax(1, dtype=torch.float32).to(tokens.dtype)
    return weights[:, None] @ tokens, some


def select_then_aggregate(
    tokens: Tensor, aggregator: TokenAggregation, scores: Tensor, ratio: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best tokens aggregated, and the others fused: ``(B, K + 1, D)``, and which of these are there.

    Args:
        tokens: ``(B, N, D)``.
        aggregator: Of the kept tokens.
        scores: ``(B, N)``, see :func:`significance`.
        ratio: Share of the tokens to keep.
        mask: ``(B, N)``, true where a token is no padding.
    """
    kept = select(scores, ratio, mask)
    fused, some = fuse(tokens, scores, ~kept if mask is None else mask & ~kept)
    refined = aggregator(tokens, kept)
    there = torch.cat([some.new_ones(refined.shape[:2]), some], 1)
    return torch.cat([refined, fused], 1), there


def select_of_aggregated(refined: Tensor, text: Tensor, ratio: float) -> Tensor:
    """The best refined tokens as they are, and the others fused: ``(B, ceil(ratio K) + 1, D)``.

    Args:
        refined: ``(B, K, D)``.
        text: ``(D,)`` mean token of a text.
        ratio: Share of the tokens to keep, less than 1.
    """
    scores = significance(refined, text=text)
    kept = select(scores, ratio)
    count = int(kept[0].sum())
    best = refined[kept].view(len(refined), count, -1)
    fused, some = fuse(refined, scores, ~kept)
    return torch.cat([best, fused], 1) if bool(some.all()) else best
