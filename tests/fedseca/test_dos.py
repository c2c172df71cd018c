"""DOS and the closed form of COPOD against transcriptions with one loop per definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew
from torch import Tensor

from fedseca.aggregators import DOS
from fedseca.aggregators.dos import cosine_distances
from fedseca.copod import copod
from shared.errors import UsageError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_copod(table: Tensor) -> list[float]:
    n, scores = len(table), [0.0] * len(table)
    for column in table.T.tolist():
        direction = 0.0 if len(set(column)) == 1 or abs(skew(column)) < 1e-10 else float(np.sign(skew(column)))
        for i, x in enumerate(column):
            left = -math.log(sum(y <= x for y in column) / n)
            right = -math.log(sum(-y <= -x for y in column) / n)
            tail = {-1.0: left, 0.0: left + right, 1.0: right}[direction]
            scores[i] += max(tail, (left + right) / 2)
    return scores


def slow_dos(points: Tensor) -> tuple[Tensor, Tensor]:
    l2 = torch.stack([(points - x).norm(dim=1) for x in points])
    cosine = torch.stack([1 - torch.nn.functional.cosine_similarity(points, x[None], dim=1) for x in points])
    cosine.fill_diagonal_(0)
    scores = torch.tensor(slow_copod(l2), dtype=torch.float64) + torch.tensor(slow_copod(cosine), dtype=torch.float64)
    return scores, torch.softmax(-scores, 0) @ points


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 40])
def test_copod(n: int) -> None:
    for seed in range(5):
        table = normal(n, 7, seed=seed)
        table[:, 3] = 2.5  # a constant column tells nothing
        table[:, 5] = table[:, 5].round()  # ties
        np.testing.assert_allclose(copod(table).numpy(), slow_copod(table), rtol=1e-12, atol=1e-15)


def test_copod_of_a_column_without_skew_adds_both_tails() -> None:
    assert copod(torch.tensor([[-1.0], [0.0], [1.0]])).tolist() == pytest.approx(
        [math.log(3), 2 * math.log(1.5), math.log(3)]
    )


def test_copod_keeps_its_head_among_the_largest_numbers() -> None:
    small = torch.tensor([[0.0, 3.0], [1.0, 2.0], [2.0, 2.5], [90.0, -7.0]]).double()
    torch.testing.assert_close(copod(1e200 * small), copod(small))


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_dos_on_weights_and_on_updates(k: int) -> None:
    for seed in range(5):
        g, origin = normal(k, 30, seed=seed), normal(30, seed=100 + seed)
        rule = DOS()
        u = rule(g, origin=origin)
        scores, expected = slow_dos(origin - g)
        torch.testing.assert_close(rule.diagnostics["scores"], scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(u, origin - expected, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(DOS(space="updates")(g), slow_dos(g)[1], rtol=1e-9, atol=1e-11)


def test_cosines_of_nearly_parallel_weights_keep_their_digits() -> None:
    """A network moves by a millionth of its length in a round: 1 - cos is 1e-12, and its order decides the scores."""
    origin, g = normal(2000), 1e-6 * normal(6, 2000, seed=1)
    w = (origin - g).numpy().astype(np.longdouble)
    norms = np.sqrt((w**2).sum(1))
    unit = w / norms[:, None]
    exact = np.array([[((a - b) ** 2).sum() / 2 for b in unit] for a in unit], dtype=np.float64)
    excess = (g**2).sum(1) - 2 * g @ origin
    squared = torch.cdist(g, g, compute_mode="donot_use_mm_for_euclid_dist").square()
    ours = cosine_distances(squared, (origin**2).sum() + excess, excess).numpy()
    np.testing.assert_allclose(ours, exact, rtol=1e-6, atol=1e-20)
    naive = 1 - (unit.astype(np.float64) @ unit.astype(np.float64).T)
    assert np.abs(naive - exact).max() > 1e-6 * exact.max()


def test_a_zero_upload_is_at_distance_one_from_all_directions() -> None:
    g = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()
    rule = DOS(space="updates")
    assert torch.isfinite(rule(g)).all()


@pytest.mark.parametrize("size", [1e2, 1e10, 1e30])
def test_weight_of_an_outlier_is_the_least_but_not_zero(size: float) -> None:
    """Scores are bounded, so DOS suppresses and does not exclude: an upload without bounds still breaks it."""
    g = normal(7, 30).float()
    g[3] = size
    rule = DOS()
    u = rule(g, origin=normal(30, seed=3).float())
    shares = rule.diagnostics["weights"]
    assert shares.argmin() == 3
    assert shares.sum() == pytest.approx(1)
    assert 0 < shares[3] < 1 / 70
    assert u.double().norm() < 0.1 * g[3].double().norm() + 10


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 9), exponent=st.integers(-6, 6))
def test_permutation_sign_and_scale(seed: int, k: int, exponent: int) -> None:
    g, origin, c = normal(k, 17, seed=seed), normal(17, seed=seed + 1), 2.0**exponent
    u = DOS()(g, origin=origin)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(DOS()(g[order], origin=origin), u)
    torch.testing.assert_close(DOS()(-g, origin=-origin), -u)
    torch.testing.assert_close(DOS()(c * g, origin=c * origin), c * u)


def test_uploads_that_are_not_finite_have_no_score() -> None:
    g = normal(6, 20)
    g[1, 3] = float("nan")
    rule, origin = DOS(), normal(20, seed=1)
    u = rule(g, origin=origin)
    assert torch.equal(u, DOS()(g[[0, 2, 3, 4, 5]], origin=origin))
    assert rule.diagnostics["scores"].isnan().tolist() == [False, True, False, False, False, False]
    assert rule.diagnostics["weights"][1] == 0


def test_identical_uploads_are_the_answer() -> None:
    g = normal(1, 20).repeat(5, 1)
    torch.testing.assert_close(DOS()(g, origin=normal(20, seed=1)), g[0])


def test_meaningless_options_are_refused() -> None:
    with pytest.raises(UsageError, match="DOS: space must be one of weights, updates, got 'x'"):
        DOS(space="x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"DOS\(space=weights\) needs the global model as origin, got none"):
        DOS()(normal(3, 2))
