"""Steps before a rule, alone and in chains."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedseca.aggregators import (
    Bulyan,
    CenteredClipping,
    CoordinateMedian,
    FedAvg,
    FLTrust,
    Krum,
    PreAggregated,
    RandomBucketClipping,
    TrimmedMean,
)
from fedseca.blocks import BLOCK
from fedseca.pre_aggregation import NNM, Bucketing, PreAggregator, StaticClipping
from shared.errors import UsageError


def normal(k: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_nnm(g: Tensor, b: int) -> Tensor:
    rows = []
    for x in g:
        order = sorted(range(len(g)), key=lambda i: (math.dist(x.tolist(), g[i].tolist()), i))
        rows.append(g[order[: len(g) - b]].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize(("k", "b"), [(1, 0), (5, 2), (6, 1), (12, 5)])
def test_nnm(k: int, b: int) -> None:
    for seed in range(3):
        g = normal(k, 20, seed)
        torch.testing.assert_close(NNM(b)(g), slow_nnm(g, b))


def test_nnm_without_hostile_clients_is_the_mean_for_everybody() -> None:
    g = normal(4, 9)
    torch.testing.assert_close(NNM(0)(g), g.mean(0).expand(4, 9))


def test_nnm_tells_near_rows_apart_and_breaks_ties_by_the_lowest() -> None:
    # Far from zero, distances from norms and products alone would be noise.
    g = torch.tensor([[0.0], [3e-4], [1e-4], [2.5e-4]]).double() + 1e6
    torch.testing.assert_close(NNM(1)(g), slow_nnm(g, 1), rtol=1e-14, atol=0)
    tie = torch.tensor([[-1.0], [0.0], [1.0]])
    assert NNM(1)(tie)[1] == -0.5


@pytest.mark.parametrize("tau", [0.5, 4.0, 1e9])
def test_static_clipping(tau: float) -> None:
    g = normal(6, 20)
    g[2] = 0
    clipped = StaticClipping(tau)(g)
    for row, x in zip(clipped, g, strict=True):
        torch.testing.assert_close(row, x * min(1.0, tau / x.norm().item()) if x.norm() else x)
    assert (clipped.norm(dim=1) <= tau * (1 + 1e-12)).all()


@pytest.mark.parametrize(("k", "size"), [(6, 2), (7, 3), (3, 5), (4, 1)])
def test_bucketing(k: int, size: int) -> None:
    step, g = Bucketing(size, seed=1), normal(k, 20)
    for t in range(3):
        expected = torch.stack([g[bucket].mean(0) for bucket in step.buckets(k, t)])
        torch.testing.assert_close(step(g, round=t), expected)
        assert len(expected) == step.left(k)
    assert Bucketing(2).buckets(9, 0) != Bucketing(2).buckets(9, 1)


@pytest.mark.parametrize("step", [NNM(2), StaticClipping(1.0), Bucketing(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_stay_and_precision_holds(step: PreAggregator, dtype: torch.dtype) -> None:
    g = normal(7, BLOCK + 5).to(dtype)
    before = g.clone()
    out = step(g)
    assert torch.equal(g, before)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), step(normal(7, BLOCK + 5)), rtol=1e-5, atol=1e-6)
    out.zero_()
    assert torch.equal(g, before)


def test_a_chain_is_its_steps_one_after_the_other() -> None:
    g = normal(8, 30)
    rule = PreAggregated([StaticClipping(2.0), NNM(1), Bucketing(2)], CoordinateMedian())
    expected = CoordinateMedian()(Bucketing(2)(NNM(1)(StaticClipping(2.0)(g)), round=3))
    assert torch.equal(rule(g, round=3), expected)


def test_uploads_that_are_not_finite_are_left_out_before_the_first_step() -> None:
    g = normal(8, 30)
    g[3, 4] = float("nan")
    g[5, 0] = float("inf")
    rule = PreAggregated([NNM(1)], TrimmedMean(1))
    assert torch.equal(rule(g), PreAggregated([NNM(1)], TrimmedMean(1))(g[[0, 1, 2, 4, 6, 7]]))
    assert rule.diagnostics["dropped"] == 2


@pytest.mark.parametrize("size", [1e10, 1e30])
def test_nnm_and_a_median_withstand_two_of_seven(size: float) -> None:
    g = normal(7, 20).float()
    limit = g.abs().max()
    g[1], g[4] = size, -size
    assert PreAggregated([NNM(2)], CoordinateMedian())(g).abs().max() <= limit
    assert PreAggregated([StaticClipping(1.0)], FedAvg())(g).norm() <= 1


def test_state_and_reference_reach_the_rule() -> None:
    chain = PreAggregated([StaticClipping(5.0)], FLTrust())
    with pytest.raises(UsageError, match="PreAggregated needs a reference update"):
        chain(normal(3, 4))
    g, reference = normal(3, 4), normal(1, 4, seed=1)[0]
    expected = FLTrust()(StaticClipping(5.0)(g), reference=reference)
    assert torch.equal(chain(g, reference=reference), expected)

    whole, resumed = (PreAggregated([Bucketing(2)], CenteredClipping(1.0)) for _ in range(2))
    whole.setup(4)
    whole(g.float())
    resumed.setup(4)
    resumed.load_state_dict(whole.state_dict())
    assert list(whole.state_dict()) == ["rule.center"]
    assert torch.equal(resumed(g.float(), round=1), whole(g.float(), round=1))


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (PreAggregated([Bucketing(2)], Krum(1)), 7),
        (PreAggregated([Bucketing(3), NNM(1)], CoordinateMedian()), 7),
        (PreAggregated([NNM(3)], TrimmedMean(1)), 7),
        (PreAggregated([NNM(1)], Bulyan(1)), 7),
        (RandomBucketClipping(), 1),
    ],
)
def test_least_number_of_clients_follows_from_all_stages(rule: PreAggregated, least: int) -> None:
    assert rule.min_clients == least
    rule.check(least)
    if least > 1:
        with pytest.raises(UsageError, match="needs"):
            rule.check(least - 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NNM(-1), "NNM: b must not be negative, got -1"),
        (lambda: StaticClipping(0), "StaticClipping: tau must be positive, got 0"),
        (lambda: Bucketing(0), "Bucketing: size must be at least 1, got 0"),
        (lambda: PreAggregated([], FedAvg()), "PreAggregated: pre must name at least one step, got none"),
        (
            lambda: PreAggregated([NNM(2)], CoordinateMedian())(normal(4, 3)),
            "NNM needs 2b < K, got b = 2 and K = 4 clients",
        ),
        (
            lambda: PreAggregated([Bucketing(2)], Krum(1))(normal(6, 3)),
            "Krum needs K - b - 2 >= 1, got b = 1 and K = 3 clients",
        ),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
