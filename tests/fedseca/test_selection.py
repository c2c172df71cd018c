"""Order statistics across clients and quantiles along coordinates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseca import magnitude_quantile as mq
from fedseca import order_statistics as os
from fedseca.magnitude_quantile import magnitude_quantile
from fedseca.order_statistics import lower_median, order_statistics, selection_network


def zero_one_inputs(n: int) -> torch.Tensor:
    """Every vector of n zeros and ones as a column: a network that selects on these selects on everything."""
    return ((torch.arange(2**n) >> torch.arange(n)[:, None]) & 1).float()


@pytest.mark.parametrize("n", range(1, 13))
def test_every_rank_of_every_small_network_by_the_zero_one_principle(n: int) -> None:
    x = zero_one_inputs(n)
    expected = x.sort(0).values
    for rank in range(n):
        assert torch.equal(order_statistics(x, [rank])[0], expected[rank])
    assert torch.equal(order_statistics(x, range(n)), expected)


@pytest.mark.parametrize("n", [13, 16, 20, 21, 33, 64, 100])
def test_larger_networks_against_sort(n: int) -> None:
    x = torch.randn(n, 257, generator=torch.Generator().manual_seed(n))
    expected = x.sort(0).values
    ranks = [0, n // 3, (n - 1) // 2, n - 1]
    assert torch.equal(order_statistics(x, ranks), expected[ranks])
    assert torch.equal(lower_median(x), x.median(0).values)


def test_sorting_takes_over_for_many_clients_with_equal_results(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(37, 100, generator=torch.Generator().manual_seed(0))
    by_network = order_statistics(x, [3, 18])
    monkeypatch.setattr(os, "SORT_FROM", 2)
    assert torch.equal(order_statistics(x, [3, 18]), by_network)


def test_median_network_of_twenty_is_much_smaller_than_its_sort() -> None:
    median, everything = selection_network(20, (9,)), selection_network(20, tuple(range(20)))
    assert len(median) < len(everything) < 20 * 19 // 2


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [2.0, 4.0, 1.0, 3.0]])
def test_median_of_an_even_number_is_the_lower_middle(values: list[float]) -> None:
    assert lower_median(torch.tensor(values)[:, None]).item() == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_chunks_change_no_bit_and_inputs_stay(dtype: torch.dtype) -> None:
    x = torch.randn(7, 1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    before = x.clone()
    whole = order_statistics(x, [1, 3])
    for chunk in (1, 64, 999, 1000, 5000):
        assert torch.equal(order_statistics(x, [1, 3], chunk), whole)
    assert torch.equal(x, before)
    assert torch.equal(order_statistics(x, [1, 3], overwrite_input=True), whole)


DISTRIBUTIONS = {
    "normal": lambda rng, d: rng.standard_normal(d),
    "heavy tails": lambda rng, d: rng.standard_cauchy(d) ** 3,
    "constant": lambda rng, d: np.full(d, -2.5),
    "zeros": lambda rng, d: np.zeros(d),
    "mostly zeros": lambda rng, d: rng.standard_normal(d) * (rng.random(d) < 0.05),
    "few values": lambda rng, d: rng.integers(-2, 3, d),
    "one spike": lambda rng, d: np.eye(1, d, d // 2)[0] * 1e30,
    "sorted": lambda rng, d: np.sort(rng.standard_normal(d)),
    "two scales": lambda rng, d: np.where(np.arange(d) % 10 == 0, 1.0, 1e-12) * rng.standard_normal(d),
    "subnormal": lambda rng, d: rng.standard_normal(d) * 1e-42,
}


@pytest.mark.parametrize("d", [1, 2, 3, 10, 1001, mq.DIRECT, 200_003])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantile_equals_numpy_on(name: str, d: int) -> None:
    row = DISTRIBUTIONS[name](np.random.default_rng(d), d).astype(np.float32)
    for q in (0.0, 1e-9, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9, 1.0):
        expected = np.quantile(np.abs(row).astype(np.float64), q)
        assert magnitude_quantile(torch.from_numpy(row), q) == expected


@settings(max_examples=200, deadline=None)
@given(
    row=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50),
    q=st.floats(0, 1),
)
def test_quantile_equals_numpy_everywhere(row: list[float], q: float) -> None:
    assert magnitude_quantile(torch.tensor(row), q) == np.quantile(np.abs(np.array(row)), q)


@pytest.mark.parametrize("shown", [0.0, 1e9])
def test_quantile_is_exact_when_the_sample_misleads(monkeypatch: pytest.MonkeyPatch, shown: float) -> None:
    row = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    expected = np.quantile(np.abs(row).astype(np.float64), 0.9)
    # A sample from one end says nothing about the quantile, and neither do entries planted where it looks.
    monkeypatch.setattr(mq, "_sample_positions", lambda d: np.arange(mq.SAMPLE))
    ordered = np.sort(np.abs(row))
    assert magnitude_quantile(torch.from_numpy(ordered), 0.9) == expected
    planted = row.copy()
    planted[: mq.SAMPLE] = shown
    assert magnitude_quantile(torch.from_numpy(planted), 0.5) == np.quantile(np.abs(planted).astype(np.float64), 0.5)


def test_the_accelerator_path_finds_the_same_neighbours() -> None:
    row = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    for rank in (0, 1, 100_000, 199_998, 199_999):
        assert mq._neighbours_by_sort(row, rank) == mq._neighbours_by_bracket(row.numpy(), rank)


def test_quantile_of_more_than_16_million_entries() -> None:
    """As many as ``torch.quantile`` has long refused; the magnitudes are 0 .. 2^24, so the answer is known."""
    row = torch.arange(2**24 + 1, dtype=torch.float32).flip(0)
    row[::2] *= -1
    assert magnitude_quantile(row, 0.9) == pytest.approx(0.9 * 2**24, rel=1e-14)
    assert magnitude_quantile(row, 1.0) == 2**24


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_quantile_of_other_types(dtype: torch.dtype) -> None:
    row = torch.randn(999, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert magnitude_quantile(row, 0.9) == np.quantile(row.abs().double().numpy(), 0.9)


def test_quantile_leaves_its_input_alone() -> None:
    row = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    before = row.clone()
    magnitude_quantile(row, 0.5)
    magnitude_quantile(row[:100], 0.5)
    assert torch.equal(row, before)
