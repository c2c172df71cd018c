"""Fusion and reranking."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finelip.scores import fuse_scores, global_scores, rerank
from shared.errors import UsageError


def test_fusion_at_its_ends_is_one_of_the_two() -> None:
    g, r = torch.randn(5, 7), torch.randn(5, 7)
    assert torch.equal(fuse_scores(g, r, 1), g)
    assert torch.equal(fuse_scores(g, r, 0), r)
    torch.testing.assert_close(fuse_scores(g, r), 0.8 * g + 0.2 * r)
    with pytest.raises(UsageError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        fuse_scores(g, r, 1.5)


def test_global_scores_are_taken_in_float32() -> None:
    v, t = torch.randn(3, 8).half(), torch.randn(2, 8).half()
    assert torch.equal(global_scores(v, t), v.float() @ t.float().T)


@given(queries=st.integers(1, 4), items=st.integers(1, 8), top=st.integers(0, 10), seed=st.integers(0, 99))
def test_reranking(queries: int, items: int, top: int, seed: int) -> None:
    """Against sorting by hand; few distinct values, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    g, f = (torch.randint(0, 4, (queries, items), generator=generator).float() for _ in range(2))
    found = rerank(g, lambda chosen: f.gather(1, chosen), top)
    for q in range(queries):
        order = sorted(range(items), key=lambda i: (-g[q, i].item(), i))
        head = sorted(order[:top], key=lambda i: (-f[q, i].item(), i))
        assert found[q].tolist() == head + order[top:]


def test_reranking_all_is_dense_and_none_is_global() -> None:
    g, f = torch.randn(6, 9), torch.randn(6, 9)
    assert torch.equal(rerank(g, lambda chosen: f.gather(1, chosen), 9), f.argsort(1, descending=True))
    assert torch.equal(rerank(g, lambda chosen: f.gather(1, chosen), 0), g.argsort(1, descending=True))
    with pytest.raises(UsageError, match="rerank_top must not be negative, got -1"):
        rerank(g, lambda chosen: chosen, -1)
