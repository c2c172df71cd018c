"""FLDetector: the Hessian, the gap statistic, and whole runs against a transcription with lists and loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from fedseca.aggregators import CoordinateMedian, FLDetector
from fedseca.gap_statistic import falls_in_two, two_means, upper_group
from fedseca.lbfgs import hessian_coefficients
from shared.errors import UsageError
from shared.federated.seeds import derived_seed


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_hessian_product(s: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """``s`` and ``y`` hold pairs as columns."""
    sigma = (y[:, -1] @ s[:, -1]) / (s[:, -1] @ s[:, -1])
    a = s.T @ y
    lower = a - torch.triu(a)
    middle = torch.cat([torch.cat([sigma * s.T @ s, lower], 1), torch.cat([lower.T, -torch.diag(torch.diag(a))], 1)])
    wide = torch.cat([sigma * s, y], 1)
    return sigma * v - wide @ (torch.linalg.pinv(middle) @ (wide.T @ v))


def bfgs(s: Tensor, y: Tensor) -> Tensor:
    """The recursion of which the compact form is the closed one, from sigma times the identity."""
    b = (y[:, -1] @ s[:, -1]) / (s[:, -1] @ s[:, -1]) * torch.eye(len(s), dtype=torch.float64)
    for i in range(s.shape[1]):
        bs = b @ s[:, i]
        b = b - torch.outer(bs, bs) / (s[:, i] @ bs) + torch.outer(y[:, i], y[:, i]) / (y[:, i] @ s[:, i])
    return b


class SlowFLDetector:
    """Lists of whole vectors; every client takes part in every round."""

    def __init__(self, window: int, faithful: bool, parity: bool, inner: str, seed: int = 0) -> None:
        self.window, self.faithful, self.parity, self.inner, self.seed = window, faithful, parity, inner, seed
        self.m: list[Tensor] = []
        self.errors: list[list[float]] = []
        self.last: Tensor | None = None
        self.suspects: list[int] = []

    def __call__(self, g: Tensor, t: int) -> Tensor:
        self.suspects = []
        if len(self.m) >= 2:
            pairs = range(max(1, len(self.m) - self.window), len(self.m))
            s = torch.stack([self.m[i - 1] if self.faithful else self.m[i] for i in pairs], 1)
            y = torch.stack([self.m[i - 1] - self.m[i] for i in pairs], 1)
            if self.faithful:
                assert self.last is not None
                curvature = slow_hessian_product(s, y, -self.m[-1])
                errors = [(row - (before + curvature)).norm().item() for row, before in zip(g, self.last, strict=True)]
                errors = [e / sum(errors) for e in errors]
            else:
                errors = [(row - slow_hessian_product(s, y, row)).norm().item() for row in g]
            self.errors = [*self.errors, errors][-self.window :]
            suspicion = np.mean(self.errors, 0)
            generator = np.random.default_rng(derived_seed(self.seed, "gap statistic", t))
            self.suspects = np.flatnonzero(slow_upper_group(suspicion, generator)).tolist()
        rows = g.clone()
        if self.parity:
            rows[self.suspects] = 0
        else:
            rows = rows[[k for k in range(len(g)) if k not in self.suspects]]
        u = rows.median(0).values if self.inner == "median" else rows.mean(0)
        self.m.append(u)
        self.last = g
        return u


def slow_upper_group(suspicion: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every k that the released program tries, by k-means."""
    n = len(suspicion)
    values = (suspicion - suspicion.min()) / (suspicion.max() - suspicion.min())
    references = generator.uniform(size=(10, n))

    def inertia(x: np.ndarray, k: int) -> float:
        return max(KMeans(k, n_init=5, random_state=0).fit(x[:, None]).inertia_, 1e-300)

    gaps, spreads = [], []
    for k in range(1, min(n, 25)):
        reference = np.array([inertia(x, k) for x in references])
        gaps.append(math.log(reference.mean()) - math.log(inertia(values, k)))
        spreads.append(math.sqrt(1 + 1 / 10) * np.log(reference).std())
    best = next((k for k in range(1, len(gaps)) if gaps[k - 1] >= gaps[k] - spreads[k]), len(gaps))
    if best == 1:
        return np.zeros(n, bool)
    fitted = KMeans(2, n_init=5, random_state=0).fit(values[:, None])
    return fitted.labels_ == fitted.cluster_centers_[:, 0].argmax()


# Parts


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_hessian_equals_the_recursion_and_maps_the_last_step_to_its_change(pairs: int) -> None:
    d = 12
    root = normal(d, d)
    s = normal(d, pairs, seed=1)
    y = (root @ root.T + torch.eye(d)) @ s
    v = normal(3, d, seed=2)
    remembered = torch.cat([s.T, y.T])
    unit = torch.eye(2 * pairs, dtype=torch.float64)
    sigma, c = hessian_coefficients(unit[:pairs], unit[pairs:], remembered @ remembered.T, v @ remembered.T)
    torch.testing.assert_close(sigma * v + c @ remembered, v @ bfgs(s, y).T)
    last = s[:, -1:].T
    sigma, c = hessian_coefficients(unit[:pairs], unit[pairs:], remembered @ remembered.T, last @ remembered.T)
    torch.testing.assert_close((sigma * last + c @ remembered)[0], y[:, -1])


def test_a_step_of_zero_has_no_curvature() -> None:
    one, nothing = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    assert hessian_coefficients(one, one, nothing, nothing) == (0.0, nothing)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-50, 50).map(lambda x: x / 8), min_size=2, max_size=9))
def test_two_means_is_the_best_of_all_partings(values: list[float]) -> None:
    x = np.sort(np.array(values))
    costs = [np.square(p - p.mean()).sum() for i in range(1, len(x)) for p in (x[:i], x[i:])]
    costs = [costs[i] + costs[i + 1] for i in range(0, len(costs), 2)]
    low, within = two_means(x)
    assert within == pytest.approx(min(costs), abs=1e-9)
    assert costs[low - 1] == pytest.approx(min(costs), abs=1e-9)


def test_two_means_against_sklearn() -> None:
    for seed in range(10):
        x = np.sort(np.random.default_rng(seed).uniform(size=15))
        fitted = KMeans(2, n_init=30, random_state=0).fit(x[:, None])
        low, within = two_means(x)
        assert within == pytest.approx(fitted.inertia_)
        assert low in (np.sum(fitted.labels_ == 0), np.sum(fitted.labels_ == 1))


def test_one_comparison_decides_like_the_whole_gap_statistic() -> None:
    found = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=8) + (10 * (np.arange(8) < 2) if seed % 2 else 0)
        ours = upper_group(x, np.random.default_rng(seed))
        assert np.array_equal(ours, slow_upper_group(x, np.random.default_rng(seed)))
        found.append(ours.any())
    assert {True, False} <= set(found)


def test_few_or_equal_numbers_have_no_upper_group() -> None:
    generator = np.random.default_rng(0)
    for values in ([], [1.0], [0.0, 1.0], [2.0, 2.0, 2.0, 2.0]):
        assert not upper_group(np.array(values), generator).any()
    assert falls_in_two(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), generator)


# The rule


def attacked(t: int, k: int = 7, d: int = 25) -> Tensor:
    """Honest clients share a slowly turning direction; two send noise of their own."""
    shared = normal(d, seed=0) + 0.1 * t * normal(d, seed=1)
    g = shared + 0.1 * normal(k, d, seed=10 + t)
    g[3:5] = 3 * normal(2, d, seed=50 + t)
    return g


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize(("parity", "inner"), [(True, "median"), (False, "median"), (False, "mean")])
def test_rounds_equal_the_transcription(faithful: bool, parity: bool, inner: str) -> None:
    rule = FLDetector(window=3, faithful=faithful, parity=parity, inner=inner)  # type: ignore[arg-type]
    slow = SlowFLDetector(3, faithful, parity, inner)
    caught = 0
    for t in range(7):
        g = attacked(t)
        torch.testing.assert_close(rule(g, round=t), slow(g, t), rtol=1e-7, atol=1e-9)
        suspects = torch.nonzero(rule.diagnostics["suspects"]).flatten().tolist()
        assert suspects == slow.suspects
        if slow.errors:
            torch.testing.assert_close(
                rule.diagnostics["suspicion"].numpy(), np.mean(slow.errors, 0), rtol=1e-6, atol=1e-9
            )
        caught += suspects == [3, 4]
    assert caught >= 4


def test_without_history_it_is_the_median() -> None:
    rule = FLDetector()
    for t in range(2):
        g = attacked(t)
        assert torch.equal(rule(g, round=t), CoordinateMedian()(g))
        assert rule.diagnostics["suspicion"].isnan().all()


def test_released_median_counts_suspects_as_zeros_and_ours_can_leave_them_out() -> None:
    """Two zeros among seven pull a median of positive numbers down by a rank."""
    released, mended, mean = FLDetector(), FLDetector(parity=False), FLDetector(parity=False, inner="mean")
    for t in range(4):
        g = attacked(t).abs() + 5
        g[3:5] += 400 * torch.rand(2, 25, generator=torch.Generator().manual_seed(t))
        outputs = [rule(g, round=t) for rule in (released, mended, mean)]
    assert torch.nonzero(mended.diagnostics["suspects"]).flatten().tolist() == [3, 4]
    honest = g[[0, 1, 2, 5, 6]]
    zeroed = g.clone()
    zeroed[3:5] = 0
    torch.testing.assert_close(outputs[0], zeroed.median(0).values)
    torch.testing.assert_close(outputs[1], honest.median(0).values)
    torch.testing.assert_close(outputs[2], honest.mean(0))  # over five, not over K - 1
    assert (outputs[0] < outputs[1]).all()


@pytest.mark.parametrize("faithful", [False, True])
def test_state_survives_a_checkpoint(faithful: bool) -> None:
    whole, resumed = FLDetector(window=3, faithful=faithful), FLDetector(window=3, faithful=faithful)
    whole.setup(25)
    for t in range(5):
        whole(attacked(t).float(), round=t)
    resumed.setup(25)
    resumed.load_state_dict(whole.state_dict())
    for t in range(5, 9):
        g = attacked(t).float()
        assert torch.equal(resumed(g, round=t), whole(g, round=t))
        assert torch.equal(resumed.diagnostics["suspicion"], whole.diagnostics["suspicion"])


@pytest.mark.parametrize("faithful", [False, True])
def test_clients_come_and_go_by_their_ids(faithful: bool) -> None:
    rule = FLDetector(window=3, faithful=faithful)
    for t, ids in enumerate([(0, 2, 5, 7), (0, 2, 5, 7), (1, 2, 5, 7), (0, 1, 5, 9)]):
        rule(normal(4, 10, seed=t), client_ids=ids, round=t)
        unknown = rule.diagnostics["suspicion"].isnan().tolist()
        if t < 2:
            assert all(unknown)
        else:
            # As published an error needs an upload before it.
            seen_before = [[], [], [False, True, True, True], [True, True, True, False]][t]
            assert unknown == [faithful and not seen for seen in seen_before]


def test_global_random_state_is_left_alone_and_does_not_matter() -> None:
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.random.get_rng_state()
        rule = FLDetector(window=3)
        results.append(torch.stack([rule(attacked(t), round=t) for t in range(5)]))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(*results)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("factor", [-1.0, 2.0**-7, 2.0**9])
def test_permutation_sign_and_scale(faithful: bool, factor: float) -> None:
    order = [4, 0, 6, 2, 5, 1, 3]
    plain, moved = FLDetector(window=3, faithful=faithful), FLDetector(window=3, faithful=faithful)
    caught = 0
    for t in range(6):
        g = attacked(t)  # seven clients: the middle one of an even number would be another from the other side
        torch.testing.assert_close(moved(factor * g[order], round=t), factor * plain(g, round=t))
        suspects = plain.diagnostics["suspects"]
        assert torch.equal(moved.diagnostics["suspects"], suspects[order])
        caught += int(suspects.any())
    assert caught


@pytest.mark.parametrize("faithful", [False, True])
def test_one_huge_upload_is_a_suspect_and_moves_nothing(faithful: bool) -> None:
    rule = FLDetector(window=3, faithful=faithful)
    for t in range(6):
        g = attacked(t).float()[[0, 1, 2, 5, 6]]
        limit = g.abs().max()
        g[2] = 1e30
        assert rule(g, round=t).abs().max() <= limit
    assert torch.nonzero(rule.diagnostics["suspects"]).flatten().tolist() == ([] if faithful else [2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FLDetector(window=0), "FLDetector: window must be at least 1, got 0"),
        (lambda: FLDetector(references=0), "FLDetector: references must be at least 1, got 0"),
        (lambda: FLDetector(inner="sum"), "FLDetector: inner must be one of median, mean, got 'sum'"),
        (lambda: FLDetector(inner="mean"), "parity=true reproduces a median, inner=mean needs parity=false"),
    ],
)
def test_meaningless_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_change_of_length_is_refused() -> None:
    rule = FLDetector()
    rule(normal(3, 10))
    with pytest.raises(UsageError, match="updates must have 10 coordinates as before, got 11"):
        rule(normal(3, 11))
