"""The aggregator against its formula, and its invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from finelip.token_aggregation import TokenAggregation
from shared.errors import UsageError


def aggregator(dim: int = 10, k: int = 4, seed: int = 0) -> TokenAggregation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TokenAggregation(dim, k).double()
        for p in module.parameters():
            torch.nn.init.normal_(p)
    return module


def plain(module: TokenAggregation, x: Tensor) -> Tensor:
    """One set (N, D), from the formula."""
    p = dict(module.named_parameters())
    rows = []
    for token in x:
        mean, var = token.mean(), token.var(correction=0)
        normed = (token - mean) / torch.sqrt(var + 1e-5) * p["weight.0.weight"] + p["weight.0.bias"]
        h = p["weight.1.weight"] @ normed + p["weight.1.bias"]
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        rows.append((p["weight.3.weight"] @ h + p["weight.3.bias"]) * p["scale"].item())
    a = torch.stack(rows, 1)  # (K, N)
    e = torch.exp(a - a.max())
    return e / e.sum(1, keepdim=True) @ x


@settings(max_examples=20)
@given(n=st.integers(1, 9), seed=st.integers(0, 50))
def test_the_aggregator_is_its_formula(n: int, seed: int) -> None:
    module = aggregator(seed=seed)
    x = torch.randn(2, n, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([plain(module, row) for row in x])
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)  # the softmax is float32


@pytest.mark.parametrize(("dim", "k", "count"), [(512, 39, 57_368), (768, 39, 125_200), (768, 51, 127_048)])
def test_parameters(dim: int, k: int, count: int) -> None:
    with torch.device("meta"):
        module = TokenAggregation(dim, k)
    assert sum(p.numel() for p in module.parameters()) == count
    assert set(module.state_dict()) == {"scale"} | {f"weight.{i}.{n}" for i in (0, 1, 3) for n in ("weight", "bias")}
    assert module.scale.shape == (1, 1, 1)


@pytest.mark.parametrize("zero", ["last layer", "scale"])
def test_without_scores_every_refined_token_is_the_mean(zero: str) -> None:
    module = aggregator()
    with torch.no_grad():
        for p in [module.scale] if zero == "scale" else module.weight[3].parameters():
            p.zero_()
    x = torch.randn(3, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.mean(1, keepdim=True).expand(-1, 4, -1), rtol=1e-6, atol=1e-6)


def test_weights_of_a_refined_token_sum_to_one() -> None:
    x = torch.randn(2, 7, 10, dtype=torch.float64)
    x[..., 0] = 3.0  # a coordinate that all tokens share survives any mixture
    torch.testing.assert_close(aggregator()(x)[..., 0], torch.full((2, 4), 3.0, dtype=torch.float64))


def test_the_order_of_the_tokens_does_not_matter() -> None:
    module, x = aggregator(), torch.randn(2, 7, 10, dtype=torch.float64)
    torch.testing.assert_close(module(x[:, torch.randperm(7)]), module(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("padding", [0.0, 1e4, math.nan])
def test_padding_changes_nothing(padding: float) -> None:
    module, x = aggregator(), torch.randn(2, 7, 10, dtype=torch.float64)
    longer = torch.cat([x, torch.full((2, 3, 10), padding, dtype=torch.float64)], 1).requires_grad_()
    mask = torch.arange(10).expand(2, -1) < 7
    found = module(longer, mask)
    torch.testing.assert_close(found, module(x), rtol=1e-12, atol=1e-12)
    if not math.isnan(padding):
        found.sum().backward()
        assert longer.grad is not None
        assert not longer.grad[:, 7:].any()


def test_a_single_token_comes_back_k_times() -> None:
    x = torch.randn(2, 1, 10, dtype=torch.float64)
    assert torch.equal(aggregator()(x), x.expand(-1, 4, -1))


def test_less_than_one_token_is_refused() -> None:
    with pytest.raises(UsageError, match="must be at least 1, got 0"):
        TokenAggregation(8, 0)
