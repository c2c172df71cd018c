"""Rules that look at signs: signSGD, TIES merging, SignGuard."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import MeanShift, estimate_bandwidth
from torch import Tensor

from fedseca.aggregators import TIES, SignGuard, SignSGD
from fedseca.blocks import BLOCK
from fedseca.mean_shift import mean_shift, neighbour_bandwidth
from fedseca.subsample import subsample
from shared.errors import UsageError


def normal(k: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_ties(g: Tensor, gamma: float) -> Tensor:
    rows = []
    for row in g.tolist():
        threshold = np.quantile(np.abs(row), gamma)
        rows.append([x if abs(x) >= threshold else 0.0 for x in row])
    merged = []
    for column in np.array(rows).T:
        agreed = [x for x in column if x * np.sign(column.sum()) > 0]
        merged.append(sum(agreed) / len(agreed) if agreed else 0.0)
    return torch.tensor(merged, dtype=g.dtype)


# signSGD


def test_majority_of_signs() -> None:
    g = normal(6, 300).round()
    expected = torch.tensor([0.01 * np.sign(sum(np.sign(x) for x in column)) for column in g.T.tolist()]).double()
    torch.testing.assert_close(SignSGD(0.01)(g), expected)


def test_a_vote_has_no_size() -> None:
    g = torch.tensor([[1.0, 1e-30], [2.0, 1.0], [-1e30, 0.0]])
    assert SignSGD(1.0)(g).tolist() == [1.0, 1.0]


# TIES


@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_ties(gamma: float, k: int) -> None:
    for seed in range(3):
        g = normal(k, 200, seed)
        torch.testing.assert_close(TIES(gamma)(g), slow_ties(g, gamma))


def test_ties_of_positive_uploads_without_trimming_is_the_mean() -> None:
    g = normal(5, 40).abs()
    torch.testing.assert_close(TIES(0.0)(g), g.mean(0))


def test_ties_elects_among_what_survives_the_trimming_and_cancels_exactly() -> None:
    g = torch.tensor([[0.4, 9.0, 0.1], [0.4, 9.0, -0.1], [-0.5, 9.0, 0.2]])
    assert TIES(0.5)(g).tolist() == pytest.approx([0.0 + 0.4, 9.0, 0.0])
    opposed = torch.tensor([[0.1, 3.0], [0.2, 3.0], [-0.1, 3.0], [-0.2, 3.0]])
    assert TIES(0.0)(opposed).tolist() == [0.0, 3.0]


def test_one_huge_entry_decides_in_ties() -> None:
    """TIES weighs by magnitude: it is a merging rule, and breaks under one hostile client."""
    g = torch.tensor([[1.0], [1.0], [-1e30]])
    assert TIES(0.0)(g).item() == pytest.approx(-1e30)


# SignGuard


@pytest.mark.parametrize("n", [4, 6, 20])
def test_mean_shift_against_sklearn(n: int) -> None:
    for seed in range(10):
        generator = np.random.default_rng(seed)
        x = generator.dirichlet([5, 1, 5], size=n) * 0.05 + np.where(np.arange(n) < n // 3, 0.5, 0.0)[:, None]
        points = torch.from_numpy(x)
        width = neighbour_bandwidth(points, 0.5)
        assert width == pytest.approx(estimate_bandwidth(x, quantile=0.5))
        ours = mean_shift(points, width)
        theirs = MeanShift(bandwidth=width).fit(x).labels_
        assert len(set(zip(ours, theirs, strict=True))) == len(set(ours)) == len(set(theirs))


def test_equal_points_are_one_cluster_whatever_the_bandwidth() -> None:
    points = torch.tensor([[0.1, 0.2, 0.7]]).repeat(7, 1)
    assert neighbour_bandwidth(points, 0.5) == 0
    assert mean_shift(points, 0.0) == [0] * 7


def sign_mixes(d: int = 3000) -> Tensor:
    """Seven honest clients of mostly positive entries; one reversed, one of ten times the length, one of zeros."""
    g = normal(10, d) + 0.5
    g[2] *= -1
    g[5] *= 10
    g[7] = 0
    return g


@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_sign_guard_filters_by_length_and_by_signs_and_clips(fraction: float) -> None:
    g = sign_mixes()
    rule = SignGuard(fraction=fraction)
    u = rule(g)
    kept = [k for k in range(10) if k not in (2, 5, 7)]
    assert torch.nonzero(rule.diagnostics["kept"]).flatten().tolist() == kept
    norms = g.norm(dim=1)
    median = sorted(norms.tolist())[4]
    torch.testing.assert_close(u, torch.stack([g[k] * min(1, median / norms[k].item()) for k in kept]).mean(0))


def test_sign_guard_against_sklearn_clusters() -> None:
    for seed in range(8):
        g = normal(9, 500, seed) + 0.3
        g[:3] = 0.8 * normal(3, 500, seed + 50) - 0.2
        x = np.array([[(r > 0).float().mean(), (r == 0).float().mean(), (r < 0).float().mean()] for r in g])
        labels = MeanShift(bandwidth=estimate_bandwidth(x, quantile=0.5)).fit(x).labels_.tolist()
        largest = Counter(labels).most_common(1)[0][0]
        rule = SignGuard(lower=0, upper=1e9, fraction=1.0)
        rule(g)
        assert torch.nonzero(rule.diagnostics["kept"]).flatten().tolist() == [
            k for k, label in enumerate(labels) if label == largest
        ]


def test_where_nobody_passes_both_filters_the_model_stays() -> None:
    # The larger cluster of signs is too long, and who has a plausible length is alone with its signs.
    g = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [9.0, 9.0], [9.0, 9.0]])
    rule = SignGuard(upper=2.0, fraction=1.0)
    assert rule(g).tolist() == [0.0, 0.0]
    assert rule.diagnostics["kept"].sum() == 0


@pytest.mark.parametrize("size", [1e10, 1e30])
def test_sign_guard_and_sign_sgd_do_not_follow_a_huge_upload(size: float) -> None:
    g = (normal(6, 400) + 0.5).float()
    g[2] = size
    assert SignGuard()(g).norm() <= g[[0, 1, 3, 4, 5]].norm(dim=1).max()
    assert SignSGD(1.0)(g).abs().max() <= 1


def test_subsample_is_the_same_for_all_rows_and_a_draw_of_seed_and_place() -> None:
    g = torch.arange(1000.0).repeat(3, 1)
    one = subsample(g, 50, 7, 2)
    assert torch.equal(one[0], one[2])
    assert len(one[0].unique()) == 50
    assert torch.equal(one, subsample(g, 50, 7, 2))
    assert not torch.equal(one, subsample(g, 50, 7, 3))
    assert not torch.equal(one, subsample(g, 50, 8, 2))
    assert subsample(g, 1000, 7, 2) is g


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), exponent=st.integers(-6, 6))
def test_permutation_sign_and_scale(seed: int, k: int, exponent: int) -> None:
    g, c = normal(k, 40, seed), 2.0**exponent
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    for rule, power in ((TIES(0.5), 1), (SignSGD(), 0)):
        u = rule(g)
        torch.testing.assert_close(rule(g[order]), u)
        torch.testing.assert_close(rule(-g), -u)
        torch.testing.assert_close(rule(c * g), c**power * u)
    if k >= 4:
        torch.testing.assert_close(SignGuard()(c * g), c * SignGuard()(g))
        whole = SignGuard(fraction=1.0)
        torch.testing.assert_close(whole(-g), -whole(g))


@pytest.mark.parametrize("rule", [TIES, SignSGD])
def test_chunks_change_no_bit(rule: type[TIES] | type[SignSGD]) -> None:
    g = normal(6, BLOCK + 99).float()
    whole = rule(chunk=10**9)(g)
    for chunk in (1000, BLOCK, None):
        assert torch.equal(rule(chunk=chunk)(g), whole)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TIES(1.0), r"TIES: gamma must be in \[0, 1\), got 1.0"),
        (lambda: SignSGD(0), "SignSGD: step must be positive, got 0"),
        (lambda: SignGuard(lower=2), "SignGuard needs 0 <= lower <= 1 <= upper, got 2 and 3.0"),
        (lambda: SignGuard(fraction=0), r"SignGuard: fraction must be in \(0, 1\], got 0"),
        (lambda: SignGuard(quantile=1.5), r"SignGuard: quantile must be in \(0, 1\], got 1.5"),
        (
            lambda: SignGuard()(normal(3, 2)),
            r"SignGuard needs quantile \* K >= 2, got quantile = 0.5 and K = 3 clients",
        ),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
