"""The rules beside FedSECA against plain transcriptions, hand-computed cases and invariants."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseca.aggregators import CenteredClipping, CoordinateMedian, FedAvg, FedSECA, Krum, TrimmedMean
from fedseca.blocks import BLOCK
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator

RULES: dict[str, Callable[[], VectorAggregator]] = {
    "FedAvg": FedAvg,
    "FedSECA": FedSECA,
    "CoordinateMedian": CoordinateMedian,
    "TrimmedMean": TrimmedMean,
    "Krum": Krum,
    "Multi-Krum": lambda: Krum(b=1, m=3, squared=True),
    "CenteredClipping": lambda: CenteredClipping(tau=2.0),
}
ROBUST = {name: make for name, make in RULES.items() if name != "FedAvg"}


def normal(k: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_trimmed_mean(g: Tensor, b: int) -> list[float]:
    return [float(np.mean(sorted(column)[b : len(column) - b])) for column in g.T.tolist()]


def slow_krum(g: Tensor, b: int, m: int, squared: bool) -> list[float]:
    k = len(g)
    scores = []
    for i in range(k):
        distances = sorted(math.dist(g[i].tolist(), g[j].tolist()) for j in range(k) if j != i)
        scores.append(sum(x**2 if squared else x for x in distances[: k - b - 2]))
    best = sorted(range(k), key=lambda i: (scores[i], i))[:m]
    return g[best].mean(0).tolist()


def slow_centered_clipping(g: Tensor, start: Tensor, tau: float, iterations: int) -> Tensor:
    m = start.double()
    for _ in range(iterations):
        steps = []
        for row in g.double():
            norm = (row - m).norm().item()
            steps.append((row - m) * (min(1.0, tau / norm) if norm else 0.0))
        m = m + torch.stack(steps).mean(0)
    return m


# Against transcriptions


def test_fedavg_weighs() -> None:
    g = normal(3, 4, dtype=torch.float64)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    torch.testing.assert_close(FedAvg()(g, weights=weights), 0.2 * g[0] + 0.5 * g[1] + 0.3 * g[2])
    torch.testing.assert_close(FedAvg()(g), g.mean(0))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 9, 20])
def test_median_bit_for_bit(k: int) -> None:
    g = normal(k, 2 * BLOCK + 3)
    assert torch.equal(CoordinateMedian()(g), g.median(0).values)


@pytest.mark.parametrize(("k", "b"), [(1, 0), (4, 0), (3, 1), (6, 2), (20, 1), (20, 9), (21, 10)])
def test_trimmed_mean(k: int, b: int) -> None:
    g = normal(k, 100, dtype=torch.float64)
    np.testing.assert_allclose(TrimmedMean(b)(g).numpy(), slow_trimmed_mean(g, b), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("k", "b", "m"), [(5, 2, 1), (7, 2, 3), (4, 0, 1), (20, 6, 20)])
@pytest.mark.parametrize("squared", [False, True])
def test_krum(k: int, b: int, m: int, squared: bool) -> None:
    for seed in range(5):
        g = normal(k, 30, seed, torch.float64)
        np.testing.assert_allclose(Krum(b, m, squared)(g).numpy(), slow_krum(g, b, m, squared), rtol=1e-12)


@pytest.mark.parametrize("tau", [0.1, 3.0, 1000.0])
@pytest.mark.parametrize("iterations", [1, 3])
def test_centered_clipping(tau: float, iterations: int) -> None:
    rule = CenteredClipping(tau, iterations)
    expected = torch.zeros(50)
    for seed in range(3):
        g = normal(6, 50, seed, torch.float64)
        expected = slow_centered_clipping(g, expected, tau, iterations)
        torch.testing.assert_close(rule(g), expected, rtol=1e-10, atol=1e-12)


# Worked out by hand


@pytest.mark.parametrize(
    "rule", [FedAvg(), CoordinateMedian(), TrimmedMean(1), Krum(1), CenteredClipping(1e9)], ids=str
)
def test_identical_uploads_are_the_answer(rule: VectorAggregator) -> None:
    g = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(rule(g.repeat(5, 1)), g[0])


def test_median_of_four_is_the_second() -> None:
    assert CoordinateMedian()(torch.tensor([[1.0], [2.0], [3.0], [4.0]])).item() == 2


def test_centered_clipping_with_a_huge_radius_is_the_mean_after_one_iteration() -> None:
    g = normal(5, 40)
    torch.testing.assert_close(CenteredClipping(1e12, 1)(g), g.mean(0))


def test_centered_clipping_ignores_a_client_at_the_centre() -> None:
    g = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
    torch.testing.assert_close(CenteredClipping(tau=1.0, iterations=1)(g), torch.tensor([0.0, 0.3, 0.4]))


@pytest.mark.parametrize("k", [3, 5, 9])
def test_trimming_all_but_one_is_the_median(k: int) -> None:
    g = normal(k, 40)
    assert torch.equal(TrimmedMean((k - 1) // 2)(g), g.median(0).values)


@pytest.mark.parametrize("outlier", range(5))
def test_krum_finds_the_common_upload(outlier: int) -> None:
    g = torch.ones(5, 3)
    g[outlier] = 100
    assert torch.equal(Krum(b=2)(g), torch.ones(3))


def test_krum_breaks_ties_by_the_lowest_id() -> None:
    g = torch.tensor([[5.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    rule = Krum(b=1, m=2)
    rule(g)
    assert rule.diagnostics["selected"].tolist() == [1, 2]


def test_plain_and_squared_distances_can_disagree() -> None:
    # Client 1 has two neighbours at 3: sums 6 and 18. Client 3 has one at 1 and one at 4.92: sums 5.92 and 25.3.
    g = torch.tensor([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0], [50.0, 0.0], [51.0, 0.0], [50.5, 4.9]])
    for squared, expected in ((False, 3), (True, 1)):
        rule = Krum(b=2, squared=squared)
        rule(g)
        assert rule.diagnostics["selected"].tolist() == [expected]


# What holds for all


@pytest.mark.parametrize("size", [-1e30, 1e10, 1e30])
@pytest.mark.parametrize("row", [0, 4])
def test_one_huge_upload_moves_nothing_beyond_the_honest(row: int, size: float) -> None:
    """The transcriptions in float64 say what is right: rounding of the huge row must not reach the others."""
    g = normal(7, 40) + 1
    limit = g.abs().max()
    g[row] = size
    for rule in (CoordinateMedian(), TrimmedMean(1), TrimmedMean(3), FedSECA(), FedSECA(variant="paper")):
        assert rule(g).abs().max() <= limit, rule
    np.testing.assert_allclose(TrimmedMean(1)(g).numpy(), slow_trimmed_mean(g, 1), rtol=1e-5, atol=1e-6)
    for b, m, squared in ((2, 1, False), (1, 3, True)):
        expected = slow_krum(g.double(), b, m, squared)
        np.testing.assert_allclose(Krum(b, m, squared)(g).numpy(), expected, rtol=1e-6)
    clipped = CenteredClipping(tau=2.0, iterations=3)(g)
    assert clipped.norm() <= 3 * 2.0
    expected = slow_centered_clipping(g, torch.zeros(40), 2.0, 3)
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), exponent=st.integers(-8, 8))
def test_centered_clipping_permutation_sign_scale_and_translation(seed: int, k: int, exponent: int) -> None:
    g, c = normal(k, 33, seed, torch.float64), 2.0**exponent

    def clipped(updates: Tensor, tau: float = 2.0, center: Tensor | None = None) -> Tensor:
        rule = CenteredClipping(tau)
        rule.center = center
        return rule(updates)

    u = clipped(g)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(clipped(g[order]), u)
    torch.testing.assert_close(clipped(-g), -u)
    torch.testing.assert_close(clipped(c * g, c * 2.0), c * u)
    torch.testing.assert_close(clipped(g + 3, center=torch.full((33,), 3.0, dtype=torch.float64)), u + 3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(6, 9), exponent=st.integers(-8, 8))
@pytest.mark.parametrize("name", [name for name in RULES if name not in ("FedSECA", "CenteredClipping")])
def test_permutation_sign_translation_and_scale(name: str, seed: int, k: int, exponent: int) -> None:
    # From six clients on: with one neighbour each, the closest pair of Krum is a tie that ids decide.
    g = normal(k, 33, seed, torch.float64)
    u = RULES[name]()(g)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(RULES[name]()(g[order]), u)
    torch.testing.assert_close(RULES[name]()(g * 2.0**exponent), u * 2.0**exponent)
    if name != "CoordinateMedian" or k % 2:  # the lower of two middles is the upper one seen from the other side
        torch.testing.assert_close(RULES[name]()(-g), -u)
    torch.testing.assert_close(RULES[name]()(g + 1), u + 1)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_never_modified_and_the_result_is_the_callers(name: str, dtype: torch.dtype) -> None:
    g = normal(6, 100, dtype=dtype)
    before = g.clone()
    rule, untouched = RULES[name](), RULES[name]()
    u = rule(g)
    assert u.dtype == dtype
    assert u.shape == (100,)
    assert torch.equal(g, before)
    assert torch.equal(untouched(g), u)
    u.fill_(7)
    assert torch.equal(g, before)
    assert torch.equal(rule(g), untouched(g))


@pytest.mark.parametrize("name", RULES)
def test_float32_agrees_with_float64(name: str) -> None:
    g = normal(7, 2000)
    torch.testing.assert_close(RULES[name]()(g).double(), RULES[name]()(g.double()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", [CoordinateMedian, TrimmedMean])
def test_chunks_change_no_bit(rule: type[CoordinateMedian] | type[TrimmedMean]) -> None:
    g = normal(6, BLOCK + 99)
    whole = rule(chunk=10**9)(g)
    for chunk in (1000, BLOCK, None):
        assert torch.equal(rule(chunk=chunk)(g), whole)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_uploads_that_are_not_finite_are_left_out_and_counted(name: str, bad: float) -> None:
    g = normal(8, 60)
    g[2, 5] = bad
    g[6] = -bad
    rule = ROBUST[name]()
    torch.testing.assert_close(rule(g), ROBUST[name]()(g[[0, 1, 3, 4, 5, 7]]), rtol=0, atol=0)
    assert rule.diagnostics["dropped"].item() == 2
    with pytest.raises(UsageError, match=r"finite|at least"):
        ROBUST[name]()(torch.full((8, 3), bad))


@pytest.mark.parametrize("name", ["FedSECA", "CenteredClipping"])
def test_state_survives_a_checkpoint(name: str) -> None:
    whole, resumed = RULES[name](), RULES[name]()
    whole.setup(40)
    whole(normal(5, 40, 1))
    resumed.setup(40)
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(resumed(normal(5, 40, 2)), whole(normal(5, 40, 2)))


# Wrong use


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimmedMean(-1), "TrimmedMean: b must not be negative, got -1"),
        (lambda: TrimmedMean(2)(normal(4, 3)), "TrimmedMean needs 2b < K, got b = 2 and K = 4"),
        (lambda: Krum(-1), "Krum: b must not be negative, got -1"),
        (lambda: Krum(m=0), "Krum: m must be at least 1, got 0"),
        (lambda: Krum(2)(normal(4, 3)), "Krum needs K - b - 2 >= 1, got b = 2 and K = 4"),
        (lambda: Krum(0, m=4)(normal(3, 3)), "Krum needs m <= K, got m = 4 and K = 3"),
        (lambda: CenteredClipping(0), "CenteredClipping: tau must be positive, got 0"),
        (lambda: CenteredClipping(iterations=0), "CenteredClipping: iterations must be at least 1, got 0"),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_too_few_are_left_after_dropping() -> None:
    g = normal(5, 3)
    g[0] = float("nan")
    with pytest.raises(UsageError, match="Krum needs K - b - 2 >= 1, got b = 2 and K = 4"):
        Krum(2)(g)
    with pytest.raises(UsageError, match="Krum needs m <= K, got m = 5 and K = 4"):
        Krum(1, m=5)(g)
    with pytest.raises(UsageError, match="TrimmedMean needs 2b < K, got b = 2 and K = 4"):
        TrimmedMean(2)(g)


def test_krum_warns_when_its_assumption_has_no_majority() -> None:
    with pytest.warns(UserWarning, match=r"Krum\(b=3\) withstands hostile clients only up to 2 of 6"):
        Krum(3)(normal(6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Krum(2)(normal(5, 3))


def test_centered_clipping_refuses_a_change_of_length() -> None:
    rule = CenteredClipping()
    rule(normal(3, 10))
    with pytest.raises(UsageError, match="updates must have 10 coordinates as before, got 11"):
        rule(normal(3, 11))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("name", RULES)
def test_accelerator_agrees_with_cpu(name: str) -> None:
    g = normal(8, 2 * BLOCK + 5)
    torch.testing.assert_close(RULES[name]()(g.cuda()).cpu(), RULES[name]()(g), rtol=1e-6, atol=1e-6)
