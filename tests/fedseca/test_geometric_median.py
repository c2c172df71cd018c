"""RFA and the Huber mean against the iterations written out on whole vectors."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseca.aggregators import RFA, HuberMean
from fedseca.blocks import BLOCK
from shared.errors import UsageError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(points: Tensor, weigh: Callable[[Tensor], Tensor], iterations: int, tolerance: float = 0.0) -> Tensor:
    v = torch.zeros_like(points[0])
    for _ in range(iterations):
        beta = weigh((points - v).norm(dim=1))
        before, v = v, (beta[:, None] * points).sum(0) / beta.sum()
        if (v - before).norm() < tolerance:
            break
    return v


def slow_rfa(points: Tensor, iterations: int, nu: float) -> Tensor:
    return slow(points, lambda r: (1 / len(points)) / torch.maximum(r, torch.tensor(nu)), iterations)


def slow_huber(points: Tensor, threshold: float) -> Tensor:
    return slow(points, lambda r: (threshold / r.clamp(min=1e-6)).clamp(max=1), 100, 1e-3)


@pytest.mark.parametrize("iterations", [1, 3, 40])
@pytest.mark.parametrize("nu", [1e-6, 4.0])
def test_rfa_on_weights_and_on_updates(iterations: int, nu: float) -> None:
    g, origin = normal(6, 50), 3 * normal(50, seed=1)
    on_weights = origin - slow_rfa(origin - g, iterations, nu)
    torch.testing.assert_close(RFA(iterations, nu)(g, origin=origin), on_weights, rtol=1e-10, atol=1e-12)
    on_updates = slow_rfa(g, iterations, nu)
    torch.testing.assert_close(RFA(iterations, nu, "updates")(g), on_updates, rtol=1e-10, atol=1e-12)


def test_the_start_at_zero_shows_after_three_iterations_only_on_what_is_averaged() -> None:
    """The released program averages weights: with the same uploads, it matters where the model is."""
    g = normal(5, 30) * torch.tensor([1.0, 1, 1, 1, 40])[:, None]
    near, far = (RFA()(g, origin=origin) for origin in (torch.zeros(30).double(), 1e3 * normal(30, seed=2)))
    assert (near - far).norm() > 0.01 * near.norm()
    torch.testing.assert_close(near, RFA(space="updates")(g))
    # After many iterations the start is forgotten.
    near, far = (RFA(300)(g, origin=origin) for origin in (torch.zeros(30).double(), 1e3 * normal(30, seed=2)))
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.02, 3.0, 1e6])
def test_huber_on_weights_and_on_updates(threshold: float) -> None:
    g, origin = normal(6, 50), 3 * normal(50, seed=1)
    expected = origin - slow_huber(origin - g, threshold)
    torch.testing.assert_close(HuberMean(threshold)(g, origin=origin), expected, rtol=1e-9, atol=1e-11)
    expected = slow_huber(g, threshold)
    torch.testing.assert_close(HuberMean(threshold, space="updates")(g), expected, rtol=1e-9, atol=1e-11)


def test_huber_with_a_huge_threshold_is_the_mean_and_stops_at_once() -> None:
    g = normal(5, 20)
    rule = HuberMean(threshold=1e9)
    torch.testing.assert_close(rule(g, origin=normal(20, seed=3)), g.mean(0))
    assert rule.diagnostics["iterations"] == 2


def test_huber_with_a_tiny_threshold_is_the_geometric_median() -> None:
    g = normal(7, 20)
    huber = HuberMean(threshold=1e-3, iterations=500, tolerance=0.0, space="updates")(g)
    torch.testing.assert_close(huber, RFA(500, space="updates")(g), rtol=1e-6, atol=1e-8)


def test_rfa_of_three_points_on_a_line_is_the_middle_one() -> None:
    g = torch.tensor([[0.0], [1.0], [100.0]])
    torch.testing.assert_close(RFA(2000, space="updates")(g), torch.tensor([1.0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("rule", [RFA(30), RFA(30, space="updates"), HuberMean(1.0), HuberMean(1.0, space="updates")])
@pytest.mark.parametrize("size", [1e3, 1e10, 1e30])
def test_one_of_five_cannot_pull_it_away(rule: RFA | HuberMean, size: float) -> None:
    g, origin = normal(5, 40).float(), normal(40, seed=5).float()
    honest = g[:4].mean(0)
    g[4] = size
    update = rule(g, origin=origin)
    assert (update - honest).norm() < 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), exponent=st.integers(-6, 6))
def test_permutation_sign_and_scale(seed: int, k: int, exponent: int) -> None:
    g, origin, c = normal(k, 17, seed=seed), normal(17, seed=seed + 1), 2.0**exponent
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    for plain, scaled in ((RFA(), RFA(nu=c * 1e-6)), (HuberMean(0.5), HuberMean(c * 0.5, c * 1e-6, 100, c * 1e-3))):
        u = plain(g, origin=origin)
        torch.testing.assert_close(plain(g[order], origin=origin), u)
        torch.testing.assert_close(plain(-g, origin=-origin), -u)
        torch.testing.assert_close(scaled(c * g, origin=c * origin), c * u)


def test_identical_uploads_far_from_zero_stay_what_they_are() -> None:
    g = normal(1, 3 * BLOCK).float().add_(50).repeat(6, 1)
    for rule in (RFA(), HuberMean(), RFA(space="updates"), HuberMean(space="updates")):
        torch.testing.assert_close(rule(g, origin=torch.full((3 * BLOCK,), 7.0)), g[0], rtol=1e-6, atol=0)


def test_weights_of_the_clients_are_told() -> None:
    g = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [0.0, 3.0]])
    rule = RFA(iterations=1, space="updates")
    torch.testing.assert_close(rule(g), torch.tensor([0.0, 1.5]))
    torch.testing.assert_close(rule.diagnostics["weights"], torch.tensor([0.75, 0.0, 0.25]).double())
    assert rule.diagnostics["dropped"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RFA(0), "RFA: iterations must be at least 1, got 0"),
        (lambda: RFA(nu=0), "RFA: nu must be positive, got 0"),
        (lambda: RFA(space="gradients"), "RFA: space must be one of weights, updates, got 'gradients'"),
        (lambda: RFA()(normal(3, 2)), r"RFA\(space=weights\) needs the global model as origin, got none"),
        (lambda: HuberMean(0), "HuberMean: threshold must be positive, got 0"),
        (lambda: HuberMean(nu=-1), "HuberMean: nu must be positive, got -1"),
        (lambda: HuberMean(iterations=0), "HuberMean: iterations must be at least 1, got 0"),
        (lambda: HuberMean(tolerance=-1), "HuberMean: tolerance must not be negative, got -1"),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
