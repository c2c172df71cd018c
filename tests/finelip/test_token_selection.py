"""Selection and fusion of tokens against plain versions, one set at a time."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from finelip.token_aggregation import TokenAggregation
from finelip.token_selection import fuse, select, select_of_aggregated, select_then_aggregate, significance


def plain_kept(scores: Tensor, ratio: float) -> list[int]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i].item(), i))
    return sorted(order[: math.ceil(ratio * len(scores))])


def test_significance_is_closeness_to_the_means() -> None:
    x, text = torch.randn(2, 5, 6), torch.randn(6)
    for row, found in zip(x, significance(x, text=text), strict=True):
        expected = F.cosine_similarity(row, row.mean(0)[None]) + F.cosine_similarity(row, text[None])
        torch.testing.assert_close(found, expected)
    mask = torch.tensor([[True, True, False, True, False]]).expand(2, -1)
    alone = significance(x[:, mask[0]])
    torch.testing.assert_close(significance(x, mask)[:, mask[0]], alone)


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), seed=st.integers(0, 50))
def test_select_then_aggregate_one_set_at_a_time(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), 7, 10, generator=generator, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aggregator = TokenAggregation(10, 3).double()
    scores = significance(x, mask)
    tokens, there = select_then_aggregate(x, aggregator, scores, 0.5, mask)
    for row, n in enumerate(lengths):
        kept = plain_kept(scores[row, :n], 0.5)
        assert select(scores, 0.5, mask)[row].nonzero()[:, 0].tolist() == kept
        torch.testing.assert_close(tokens[row, :3], aggregator(x[row, kept][None])[0])
        rest = [i for i in range(n) if i not in kept]
        assert there[row].tolist() == [True, True, True, bool(rest)]
        if rest:
            expected = scores[row, rest].softmax(0) @ x[row, rest]
            torch.testing.assert_close(tokens[row, 3], expected, rtol=1e-6, atol=1e-6)
    assert tokens.isfinite().all()


def test_the_better_half_of_aggregated_tokens_stays() -> None:
    x, text = torch.randn(2, 6, 8), torch.randn(8)
    scores = significance(x, text=text)
    found = select_of_aggregated(x, text, 0.5)
    for row in range(2):
        kept = plain_kept(scores[row], 0.5)
        rest = [i for i in range(6) if i not in kept]
        assert torch.equal(found[row, :3], x[row, kept])
        torch.testing.assert_close(found[row, 3], scores[row, rest].softmax(0) @ x[row, rest])


def test_with_nothing_to_fuse_the_token_is_marked() -> None:
    token, some = fuse(torch.randn(1, 3, 4), torch.randn(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert token.isfinite().all()
    assert not some.any()
