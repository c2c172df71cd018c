"""FedSECA against a transcription of its steps, its hand-computed cases and its invariants."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from fedseca.aggregators import FedSECA
from fedseca.blocks import BLOCK
from fedseca.crise import _sign_counts_by_products, sign_counts
from shared.errors import UsageError

ORACLE = torch.tensor([[1.0, -2.0, 0.0, 4.0], [2.0, -1.0, 0.0, -3.0], [-1.0, 3.0, 0.0, 5.0]])
THIRD = 1 / 3


def sgn(x: float) -> int:
    return int(x > 0) - int(x < 0)


def lower_middle(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def ratings(g: NDArray[np.float64], rating: str) -> NDArray[np.float64]:
    """Sum over l of what rho averages, client by client, pair by pair."""
    k, d = g.shape
    sums = np.zeros(k)
    for a, b in itertools.product(range(k), repeat=2):
        s, t = np.sign(g[a]), np.sign(g[b])
        x, y = (g[a], g[b]) if rating == "cosine_raw" else (s, t)
        lengths = math.sqrt(x @ x) * math.sqrt(y @ y)
        agree, oppose = sum(s * t > 0), sum(s * t < 0)
        sums[a] += {
            "concordance": sgn(s @ t / d),
            "cosine_sign_mean": x @ y / lengths if lengths else 0,
            "cosine_raw": x @ y / lengths if lengths else 0,
            "kendall": (agree - oppose) / (agree + oppose) if agree + oppose else 0,
        }[rating]
    return sums


def reference(
    g: NDArray[np.float64],
    gamma: float,
    vote_on: str = "sparse",
    clamp_on: str = "raw",
    keep: str = ">=",
    rating: str = "concordance",
    crise: bool = True,
    clip: bool = True,
    clamp: bool = True,
    align: bool = True,
) -> tuple[list[float], NDArray[np.float64]]:
    """Steps 1 to 7 as they are written, one number at a time."""
    k, d = g.shape
    weight = np.maximum(0, ratings(g, rating)) if crise else np.ones(k)
    norms = [math.sqrt(row @ row) for row in g]
    tau = lower_middle(norms)
    c = np.array([row * (min(1, tau / norm) if clip and norm else 1) for row, norm in zip(g, norms, strict=True)])
    quantile = [np.quantile(np.abs(row), gamma) if gamma else 0 for row in g]
    u = []
    for j in range(d):
        mu = lower_middle(list(np.abs(c[:, j])))
        x = []
        for i in range(k):
            value = (g if clamp_on == "raw" else c)[i, j]
            if clamp:
                value = sgn(value) * min(abs(value), mu)
            kept = abs(g[i, j]) >= quantile[i] if keep == ">=" else abs(g[i, j]) > quantile[i]
            x.append(value if kept else 0.0)
        votes = x if vote_on == "sparse" else g[:, j]
        s = sgn(sum(weight[i] * sgn(votes[i]) for i in range(k)))
        aligned = [v for v in x if (s * v > 0 if align else v != 0)]
        u.append(sum(aligned) / len(aligned) if aligned else 0.0)
    return u, weight / k if crise else weight


def normal(k: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def concordant(k: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Clients with something in common, as in training; independent ones agree with hardly anybody."""
    common = normal(1, d, seed + 1000, torch.float64)
    return (common + normal(k, d, seed, torch.float64)).to(dtype)


def update(g: Tensor, **options: Any) -> Tensor:
    return FedSECA(beta=0.0, **options)(g)


# The cases worked out by hand


def test_three_clients_without_sparsification() -> None:
    rule = FedSECA(gamma=0.0, beta=0.0)
    assert rule(ORACLE).tolist() == [1.0, -1.5, 0.0, 0.0]
    seen = rule.diagnostics
    assert seen["rho"].tolist() == [THIRD, THIRD, 0.0]
    assert seen["omega"].sign().tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    assert seen["tau"].item() == math.sqrt(21)
    assert seen["aligned"].tolist() == [2, 2, 0]
    assert seen["density"].item() == 0.5
    assert seen["dropped"].item() == 0


def test_three_clients_with_half_of_the_entries() -> None:
    rule = FedSECA(gamma=0.5, beta=0.0)
    assert rule(ORACLE).tolist() == [1.0, -2.0, 0.0, 0.0]
    assert rule.diagnostics["lambda"].tolist() == [1.5, 1.5, 2.0]


def test_two_opposed_clients_trust_nobody() -> None:
    g = normal(1, 50)
    rule = FedSECA(beta=0.0)
    assert not rule(torch.cat([g, -g])).any()
    assert rule.diagnostics["rho"].tolist() == [0.0, 0.0]


def test_a_zero_client_counts_for_nothing() -> None:
    g = concordant(5, 1000)
    g[2] = 0
    for variant in ("released", "paper"):
        rule = FedSECA(beta=0.0, variant=variant)
        assert rule(g).isfinite().all()
        assert rule.diagnostics["rho"][2] == 0
        assert rule.diagnostics["aligned"][2] == 0


@pytest.mark.parametrize("zeros", [3, 5])
def test_a_median_norm_of_zero_makes_no_nan(zeros: int) -> None:
    g = concordant(5, 100)
    g[:zeros] = 0
    assert torch.equal(update(g), torch.zeros(100))


@pytest.mark.parametrize(("k", "b", "expected"), [(5, 2, 0.2), (20, 4, 0.6)])
def test_hostile_minority_that_opposes_gets_no_vote(k: int, b: int, expected: float) -> None:
    honest = normal(1, 200).abs()
    rule = FedSECA(beta=0.0)
    rule(torch.cat([honest * torch.rand(k - b, 200), -honest * torch.rand(b, 200)]))
    torch.testing.assert_close(rule.diagnostics["rho"], torch.tensor([expected] * (k - b) + [0.0] * b).double())


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_identical_clients(k: int) -> None:
    g = normal(1, 1001)
    rule = FedSECA(gamma=0.9, beta=0.5)
    m = rule(g.repeat(k, 1))
    assert rule.diagnostics["rho"].tolist() == [1.0] * k
    kept = g[0].abs() >= np.quantile(g[0].abs().double().numpy(), 0.9)
    torch.testing.assert_close(m, 0.5 * g[0] * kept, rtol=3e-7, atol=0)


def test_momentum_without_bias_correction() -> None:
    first, second = concordant(5, 300, seed=1), concordant(5, 300, seed=2)
    rule = FedSECA(beta=0.25)
    expected = 0.75 * update(first)
    torch.testing.assert_close(rule(first), expected)
    torch.testing.assert_close(rule(second), 0.75 * update(second) + 0.25 * expected)


# Against the transcription

CHOICES = [
    {},
    {"variant": "paper"},
    *(
        {"vote_on": v, "clamp_on": c, "keep": k}
        for v in ("sparse", "raw")
        for c in ("raw", "clipped")
        for k in (">=", ">")
    ),
    *({"rating": r} for r in ("cosine_sign_mean", "kendall", "cosine_raw")),
    *({switch: False} for switch in ("crise", "clip", "clamp", "align")),
    {"variant": "paper", "clip": False, "clamp": False},
    {"crise": False, "align": False},
]


@pytest.mark.parametrize("options", CHOICES, ids=lambda options: "-".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_every_choice_against_the_transcription(k: int, gamma: float, options: dict[str, Any]) -> None:
    g = concordant(k, 60, seed=k, dtype=torch.float64)
    g[:, ::7] = g[:, ::7].round()  # some zeros, some ties
    g[-1] *= -5
    spelled = {"vote_on": "raw", "clamp_on": "clipped", "keep": ">"} if options.get("variant") == "paper" else {}
    spelled |= {name: value for name, value in options.items() if name != "variant"}
    rule = FedSECA(gamma=gamma, beta=0.0, **options)
    if gamma == 0 and options.get("keep", spelled.get("keep")) == ">":
        spelled["keep"] = ">="  # gamma = 0 switches sparsification off in either reading
    expected, rho = reference(g.numpy(), gamma, **spelled)
    np.testing.assert_allclose(rule(g).numpy(), expected, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(rule.diagnostics["rho"].numpy(), rho, rtol=1e-12, atol=1e-15)


def test_quantile_on_an_entry_is_where_the_two_readings_part() -> None:
    g = torch.tensor([[1.0, 2.0, 3.0]])
    assert update(g, gamma=0.5).tolist() == [0.0, 2.0, 3.0]
    assert update(g, gamma=0.5, keep=">").tolist() == [0.0, 0.0, 3.0]


# Invariants

shapes = {"k": st.integers(1, 9), "d": st.integers(1, 80), "seed": st.integers(0, 10_000)}
relaxed = settings(max_examples=40, deadline=None)


@relaxed
@given(**shapes, variant=st.sampled_from(["released", "paper"]))
def test_permutation_of_clients(k: int, d: int, seed: int, variant: str) -> None:
    g = concordant(k, d, seed, torch.float64)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    rule, permuted = FedSECA(beta=0.0, variant=variant), FedSECA(beta=0.0, variant=variant)
    torch.testing.assert_close(permuted(g[order]), rule(g), rtol=1e-12, atol=0)
    assert torch.equal(permuted.diagnostics["rho"], rule.diagnostics["rho"][order])


@relaxed
@given(**shapes, exponent=st.integers(-20, 20), variant=st.sampled_from(["released", "paper"]))
def test_sign_flip_and_positive_scaling(k: int, d: int, seed: int, exponent: int, variant: str) -> None:
    g = concordant(k, d, seed)
    u = update(g, variant=variant)
    assert torch.equal(update(-g, variant=variant), -u)
    assert torch.equal(update(g * 2.0**exponent, variant=variant), u * 2.0**exponent)


@relaxed
@given(**shapes, gamma=st.floats(0, 0.99), factor=st.floats(1e-3, 1e3))
def test_bounds_signs_and_scale_free_concordance(k: int, d: int, seed: int, gamma: float, factor: float) -> None:
    g = concordant(k, d, seed, torch.float64)
    rule = FedSECA(gamma=gamma, beta=0.0, variant="paper")
    u = rule(g)
    tau = g.norm(dim=1).median()
    mu = (g * (tau / g.norm(dim=1)).clamp(max=1)[:, None]).abs().median(0).values
    assert (u.abs() <= mu * (1 + 1e-12)).all()
    elected = (rule.diagnostics["rho"] @ g.sign()).mul(k).round().sign()
    assert ((u.sign() == elected) | (u == 0)).all()
    g[0] *= factor
    rescaled = FedSECA(gamma=gamma, beta=0.0)
    rescaled(g)
    assert torch.equal(rescaled.diagnostics["omega"], rule.diagnostics["omega"])
    assert torch.equal(rescaled.diagnostics["rho"], rule.diagnostics["rho"])


@relaxed
@given(d=st.integers(1, 2000), gamma=st.floats(1e-6, 0.999), seed=st.integers(0, 1000))
def test_number_of_kept_entries(d: int, gamma: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Neighbouring float32 numbers: a threshold rounded to float32 would miscount.
    g = (torch.randperm(d, generator=generator) + 2**23).float()[None]
    assert torch.count_nonzero(update(g, gamma=gamma, clamp=False)) == d - math.ceil(gamma * (d - 1))


@relaxed
@given(seed=st.integers(0, 10_000))
def test_discordant_attackers_change_no_elected_sign(seed: int) -> None:
    honest = concordant(6, 400, seed)
    for attackers in (-honest[:3] * 100, -honest[:1].repeat(4, 1)):
        together = FedSECA(beta=0.0, variant="paper", gamma=0.0, clip=False)
        u = together(torch.cat([honest, attackers]))
        if (together.diagnostics["omega"].sign()[:6, :6] < 0).any():
            continue
        alone = update(honest, variant="paper", gamma=0.0, clip=False, crise=False)
        assert ((u.sign() == alone.sign()) | (u == 0)).all()


def test_float64_agrees_with_float32() -> None:
    g = concordant(9, 5000)
    for variant in ("released", "paper"):
        torch.testing.assert_close(
            update(g.double(), variant=variant).float(), update(g, variant=variant), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("size", [-1e30, 1e10, 1e30])
@pytest.mark.parametrize("options", [{}, {"variant": "paper"}, {"rating": "cosine_raw"}], ids=str)
def test_one_huge_upload_of_five(options: dict[str, Any], size: float) -> None:
    g = concordant(5, 60)
    limit = g.abs().max()
    g[2] = size
    spelled = {"vote_on": "raw", "clamp_on": "clipped", "keep": ">"} if "variant" in options else options
    expected, rho = reference(g.double().numpy(), 0.5, **spelled)
    rule = FedSECA(gamma=0.5, beta=0.0, **options)
    u = rule(g)
    assert u.abs().max() <= limit
    np.testing.assert_allclose(u.numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rule.diagnostics["rho"].numpy(), rho, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_computed_in_float32(dtype: torch.dtype) -> None:
    g = concordant(5, 1000, dtype=dtype)
    u = update(g)
    assert u.dtype == torch.float32
    assert torch.equal(u, update(g.float()))


@pytest.mark.parametrize("k", [5, 6])
@pytest.mark.parametrize("options", [{}, {"variant": "paper"}, {"align": False}, {"rating": "cosine_raw"}], ids=str)
def test_chunks_change_no_bit(k: int, options: dict[str, Any]) -> None:
    d = 2 * BLOCK + 777
    g = concordant(k, d)
    whole = update(g, chunk=d, **options)
    for chunk in (1000, BLOCK, BLOCK + 13, None):
        assert torch.equal(update(g, chunk=chunk, **options), whole)


def test_two_ways_of_counting_signs() -> None:
    g = normal(6, 300_001).round()
    assert (g == 0).any()
    for fast, plain in zip(sign_counts(g), _sign_counts_by_products(g), strict=True):
        assert torch.equal(fast, plain)


# Uploads that are not finite, state, and wrong use


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_clients_that_are_not_finite_are_left_out_and_counted(bad: float) -> None:
    g = concordant(6, 500)
    g[1, 7] = bad
    g[4, :] = bad
    rule = FedSECA(beta=0.0)
    kept = [0, 2, 3, 5]
    assert torch.equal(rule(g), update(g[kept]))
    seen = rule.diagnostics
    assert seen["dropped"].item() == 2
    assert seen["rho"].shape == seen["lambda"].shape == seen["aligned"].shape == (6,)
    assert seen["lambda"].isnan().tolist() == [False, True, False, False, True, False]
    assert not seen["omega"][1].any()
    assert not seen["omega"][:, 4].any()
    with pytest.raises(UsageError, match="FedSECA: none of the 2 uploads is finite"):
        rule(g[[1, 4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_and_state_belong_to_their_owners(dtype: torch.dtype) -> None:
    g = concordant(6, 500, dtype=dtype)
    before = g.clone()
    rule = FedSECA(gamma=0.0)
    m = rule(g)
    assert torch.equal(g, before)
    kept = m.clone()
    m.zero_()
    assert torch.equal(rule.momentum, kept)


def test_uploads_may_be_part_of_a_graph() -> None:
    g = concordant(5, 300)
    assert torch.equal(update(g.clone().requires_grad_()), update(g))


def test_state_survives_a_checkpoint() -> None:
    rounds = [concordant(5, 200, seed) for seed in range(4)]
    whole = FedSECA()
    for g in rounds[:2]:
        whole(g)
    resumed = FedSECA()
    resumed.setup(200)
    resumed.load_state_dict(whole.state_dict())
    for g in rounds[2:]:
        assert torch.equal(resumed(g), whole(g))


def test_setup_equals_a_lazy_start_and_no_momentum_needs_no_buffer() -> None:
    g = concordant(5, 200)
    prepared = FedSECA()
    prepared.setup(200)
    assert torch.equal(prepared(g), FedSECA()(g))
    stateless = FedSECA(beta=0.0)
    stateless.setup(200)
    stateless(g)
    assert not stateless.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, r"FedSECA: gamma must be in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, r"FedSECA: beta must be in \[0, 1\), got -0.1"),
        ({"variant": "v2"}, "FedSECA: variant must be one of released, paper, got 'v2'"),
        ({"vote_on": "x"}, "FedSECA: vote_on must be one of sparse, raw, got 'x'"),
        ({"clamp_on": "x"}, "FedSECA: clamp_on must be one of raw, clipped, got 'x'"),
        ({"keep": "<"}, "FedSECA: keep must be one of >=, >, got '<'"),
        ({"rating": "x"}, "FedSECA: rating must be one of concordance, .*, got 'x'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FedSECA(**options)


def test_a_change_of_length_is_refused() -> None:
    rule = FedSECA()
    rule(normal(3, 10))
    with pytest.raises(UsageError, match="updates must have 10 coordinates as before, got 11"):
        rule(normal(3, 11))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_accelerator_agrees_with_cpu(variant: str) -> None:
    g = concordant(7, 3 * BLOCK + 5)
    torch.testing.assert_close(
        update(g.cuda(), variant=variant).cpu(), update(g, variant=variant), rtol=1e-6, atol=1e-6
    )
