"""Rules that choose or weigh clients or values: MeaMed, Bulyan, MoNNA, DnC, FLTrust, Fed-NGA."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseca.aggregators import Bulyan, CoordinateMedian, DnC, FedNGA, FLTrust, MeaMed, MoNNA
from fedseca.aggregators.bulyan import bulyan_selection
from fedseca.aggregators.dnc import spectral_scores
from fedseca.blocks import BLOCK, inner_products
from fedseca.subsample import subsample
from shared.errors import RunError, UsageError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_mean_around_median(g: Tensor, b: int) -> list[float]:
    result = []
    for column in g.T.tolist():
        median = sorted(column)[(len(column) - 1) // 2]
        closest = sorted(column, key=lambda x: (abs(x - median), x))
        result.append(float(np.mean(closest[: len(column) - b])))
    return result


def slow_bulyan(g: Tensor, b: int) -> tuple[list[int], list[float]]:
    left, chosen = list(range(len(g))), []
    while len(chosen) < len(g) - 2 * b:
        neighbours = max(len(left) - b - 2, 1)
        scores = {}
        for i in left:
            distances = sorted(math.dist(g[i].tolist(), g[j].tolist()) ** 2 for j in left if j != i)
            scores[i] = sum(distances[:neighbours])
        best = min(left, key=lambda i: (scores[i], i))
        chosen.append(best)
        left.remove(best)
    return chosen, slow_mean_around_median(g[chosen], 2 * b)


def slow_dnc(g: Tensor, struck: int, draws: list[Tensor]) -> list[int]:
    good = set(range(len(g)))
    for rows in draws:
        centred = rows - rows.mean(0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores = (centred @ direction).square().tolist()
        good &= set(sorted(range(len(g)), key=lambda k: (scores[k], k))[: len(g) - struck])
    return sorted(good)


# MeaMed


@pytest.mark.parametrize(("k", "b"), [(1, 0), (3, 1), (4, 1), (5, 2), (20, 3), (20, 9), (21, 10)])
def test_meamed(k: int, b: int) -> None:
    for seed in range(4):
        g = normal(k, 60, seed=seed)
        g[:, :20] = g[:, :20].round()  # ties in value and in distance
        np.testing.assert_allclose(MeaMed(b)(g).numpy(), slow_mean_around_median(g, b), rtol=1e-12, atol=1e-14)


def test_meamed_without_hostile_clients_is_the_mean() -> None:
    g = normal(6, 30)
    torch.testing.assert_close(MeaMed(0)(g), g.mean(0))


@pytest.mark.parametrize("rule", [MeaMed(2), Bulyan(1)])
def test_chunks_change_no_bit(rule: MeaMed | Bulyan) -> None:
    g = normal(7, BLOCK + 99).float()
    rule.chunk = 10**9
    whole = rule(g)
    for rule.chunk in (1000, BLOCK, None):
        assert torch.equal(rule(g), whole)


# Bulyan


@pytest.mark.parametrize(("k", "b"), [(3, 0), (5, 0), (7, 1), (10, 1), (11, 2), (20, 4)])
def test_bulyan(k: int, b: int) -> None:
    for seed in range(4):
        g = normal(k, 30, seed=seed)
        rule = Bulyan(b)
        u = rule(g)
        selected, expected = slow_bulyan(g, b)
        assert rule.diagnostics["selected"].tolist() == selected
        np.testing.assert_allclose(u.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_bulyan_breaks_ties_by_the_lowest() -> None:
    assert bulyan_selection(torch.zeros(7, 7), 1) == [0, 1, 2, 3, 4]


# MoNNA


@pytest.mark.parametrize(("k", "b", "trusted"), [(1, 0, 0), (5, 2, 3), (9, 4, 8)])
def test_monna(k: int, b: int, trusted: int) -> None:
    for seed in range(4):
        g = normal(k, 30, seed=seed)
        order = sorted(range(k), key=lambda i: (math.dist(g[i].tolist(), g[trusted].tolist()), i))
        torch.testing.assert_close(MoNNA(b, trusted)(g), g[order[: k - b]].mean(0))


def test_monna_knows_its_client_by_id_and_cannot_do_without_it() -> None:
    g = torch.tensor([[0.0], [10.0], [11.0]])
    rule = MoNNA(b=1, trusted=7)
    assert rule(g, client_ids=[2, 5, 7]).item() == 10.5
    with pytest.raises(RunError, match="MoNNA: the trusted client 7 took no part in round 4"):
        rule(g, client_ids=[2, 5, 8], round=4)
    g[2] = float("nan")
    with pytest.raises(RunError, match="MoNNA: the upload of the trusted client 7 is not finite in round 0"):
        rule(g, client_ids=[2, 5, 7])


# DnC


def test_spectral_scores_are_squared_projections() -> None:
    for seed in range(5):
        rows = normal(6, 40, seed=seed)
        centred = rows - rows.mean(0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        torch.testing.assert_close(spectral_scores(rows), (centred @ direction).square())
    assert torch.equal(spectral_scores(torch.ones(3, 4)), torch.zeros(3).double())


@pytest.mark.parametrize(("iterations", "c"), [(1, 1.0), (4, 1.0), (2, 1.5)])
def test_dnc(iterations: int, c: float) -> None:
    for seed in range(4):
        g = normal(9, 300, seed=seed)
        rule = DnC(b=2, iterations=iterations, sample=50, c=c, seed=3)
        u = rule(g, round=seed)
        draws = [subsample(g, 50, 3, seed, i) for i in range(iterations)]
        kept = slow_dnc(g, int(2 * c), draws)
        assert torch.nonzero(rule.diagnostics["kept"]).flatten().tolist() == kept
        torch.testing.assert_close(u, g[kept].mean(0) if kept else torch.zeros(300).double())


def test_dnc_where_every_client_was_struck_out_once_the_model_stays() -> None:
    g = normal(3, 200)
    rule = DnC(b=2, iterations=30, sample=5)
    assert torch.equal(rule(g), torch.zeros(200).double())


# FLTrust


def test_fltrust() -> None:
    for seed in range(5):
        g = normal(6, 30, seed=seed)
        clean = normal(30, seed=50 + seed) + g[0]
        trust = [max(0.0, float(row @ clean / row.norm() / clean.norm())) for row in g]
        total = sum(t * row * clean.norm() / row.norm() for t, row in zip(trust, g, strict=True))
        rule = FLTrust()
        torch.testing.assert_close(rule(g, reference=clean), total / sum(trust))
        torch.testing.assert_close(rule.diagnostics["trust"], torch.tensor(trust, dtype=torch.float64))


def test_fltrust_trusts_nobody_without_a_direction() -> None:
    clean = torch.tensor([1.0, 0.0])
    against = torch.tensor([[-1.0, 5.0], [0.0, 1.0], [0.0, 0.0]])
    assert FLTrust()(against, reference=clean).tolist() == [0.0, 0.0]
    assert FLTrust()(against, reference=torch.zeros(2)).tolist() == [0.0, 0.0]


def test_fltrust_needs_a_clean_reference() -> None:
    g = normal(3, 4)
    with pytest.raises(UsageError, match="FLTrust needs a reference update computed on clean data, got none"):
        FLTrust()(g)
    with pytest.raises(UsageError, match="FLTrust: the reference must have 4 coordinates, got 5"):
        FLTrust()(g, reference=torch.ones(5))
    with pytest.raises(RunError, match="FLTrust: the reference update of round 3 is not finite"):
        FLTrust()(g, reference=torch.full((4,), math.inf), round=3)


# Fed-NGA


def test_fed_nga() -> None:
    g = normal(5, 30)
    torch.testing.assert_close(FedNGA()(g), (g / g.norm(dim=1, keepdim=True)).mean(0))
    g[2] = 0
    expected = sum(row / row.norm() for row in g[[0, 1, 3, 4]]) / 5
    torch.testing.assert_close(FedNGA()(g), expected)
    assert torch.equal(FedNGA()(torch.zeros(3, 4)), torch.zeros(4))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), exponent=st.integers(-40, 35))
def test_fed_nga_never_steps_further_than_one(seed: int, k: int, exponent: int) -> None:
    g = normal(k, 20, seed=seed).float()
    g[0] *= 10.0**exponent
    u = FedNGA()(g)
    assert torch.isfinite(u).all()
    assert u.norm() <= 1 + 1e-6


# What they share


@pytest.mark.parametrize("size", [1e10, 1e30])
@pytest.mark.parametrize(
    "rule", [MeaMed(2), Bulyan(1), MoNNA(2), DnC(2), FLTrust(), FedNGA()], ids=lambda r: type(r).__name__
)
def test_one_huge_upload_among_seven_moves_nothing_beyond_the_honest(
    rule: MeaMed | Bulyan | MoNNA | DnC | FLTrust | FedNGA, size: float
) -> None:
    g = (normal(7, 40) + 1).float()
    limit = g.abs().max()
    for row in (1, 5):
        hostile = g.clone()
        hostile[row] = size
        assert rule(hostile, reference=g[0]).abs().max() <= limit


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(7, 9), exponent=st.integers(-6, 6))
@pytest.mark.parametrize(
    "make", [lambda: MeaMed(2), lambda: Bulyan(1), lambda: DnC(2)], ids=["MeaMed", "Bulyan", "DnC"]
)
def test_permutation_sign_translation_and_scale(
    make: Callable[[], MeaMed | Bulyan | DnC], seed: int, k: int, exponent: int
) -> None:
    g = normal(k, 33, seed=seed)
    u = make()(g)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    if not isinstance(make(), Bulyan):  # its last choices are ties between two nearest neighbours
        torch.testing.assert_close(make()(g[order]), u)
    torch.testing.assert_close(make()(g * 2.0**exponent), u * 2.0**exponent)
    if isinstance(make(), DnC) or k % 2:  # the lower of two middles is the upper one seen from the other side
        torch.testing.assert_close(make()(-g), -u)
    torch.testing.assert_close(make()(g + 1), u + 1)


def test_identical_uploads_are_the_answer() -> None:
    g = torch.tensor([[1.0, -2.0, 0.5]]).repeat(7, 1)
    for rule in (MeaMed(2), Bulyan(1), MoNNA(2), DnC(2)):
        torch.testing.assert_close(rule(g), g[0])
    torch.testing.assert_close(FLTrust()(g, reference=g[0]), g[0])
    torch.testing.assert_close(FedNGA()(g), g[0] / g[0].norm())


def test_meamed_that_leaves_out_almost_half_is_near_the_median() -> None:
    g = normal(9, 50)
    assert (MeaMed(4)(g) - CoordinateMedian()(g)).abs().mean() < (g.mean(0) - CoordinateMedian()(g)).abs().mean()


def test_inner_products_of_long_rows() -> None:
    g, v = normal(4, 2 * BLOCK + 7), normal(2 * BLOCK + 7, seed=1)
    torch.testing.assert_close(inner_products(g, v), g @ v)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeaMed(-1), "MeaMed: b must not be negative, got -1"),
        (lambda: MeaMed(2)(normal(4, 3)), "MeaMed needs 2b < K, got b = 2 and K = 4 clients"),
        (lambda: Bulyan(-1), "Bulyan: b must not be negative, got -1"),
        (lambda: Bulyan(1)(normal(6, 3)), r"Bulyan needs K >= 4b \+ 3, got b = 1 and K = 6 clients"),
        (lambda: MoNNA(-1), "MoNNA: b must not be negative, got -1"),
        (lambda: MoNNA(trusted=-1), "MoNNA: trusted must not be negative, got -1"),
        (lambda: MoNNA(2)(normal(4, 3)), "MoNNA needs 2b < K, got b = 2 and K = 4 clients"),
        (lambda: DnC(-1), "DnC: b must not be negative, got -1"),
        (lambda: DnC(iterations=0), "DnC: iterations must be at least 1, got 0"),
        (lambda: DnC(sample=0), "DnC: sample must be at least 1, got 0"),
        (lambda: DnC(c=0), "DnC: c must be positive, got 0"),
        (lambda: DnC(2, c=1.5)(normal(3, 3)), "DnC strikes out 3 clients and needs more than that, got 3"),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
