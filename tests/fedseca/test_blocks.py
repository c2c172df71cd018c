import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedseca.blocks import (
    BLOCK,
    chunk_width,
    combinations,
    distances_from,
    finite_clients,
    gram,
    norms_and_products,
    slices,
    squared_distances,
    squared_norms,
)
from fedseca.reweighting import lengths
from shared.errors import UsageError


@settings(deadline=None)
@given(d=st.integers(1, 500), width=st.integers(1, 600))
def test_slices_cover_every_coordinate_once_in_order(d: int, width: int) -> None:
    parts = list(slices(d, width))
    assert [j for part in parts for j in range(d)[part]] == list(range(d))
    assert all(0 < part.stop - part.start <= width for part in parts)


def test_chunk_width_is_what_was_asked_or_fits_the_cache() -> None:
    cpu = torch.device("cpu")
    assert chunk_width(20, cpu, 7) == 7
    assert chunk_width(1000, cpu) < chunk_width(20, cpu) == BLOCK
    with pytest.raises(UsageError, match="chunk must be at least 1 coordinate, got 0"):
        chunk_width(20, cpu, 0)


@pytest.mark.parametrize("d", [1, 5, BLOCK - 1, BLOCK, 2 * BLOCK + 17])
def test_reductions_against_numpy_in_float64(d: int) -> None:
    g = torch.randn(4, d, generator=torch.Generator().manual_seed(d)) * torch.tensor([[1.0], [1e-6], [1e4], [3.0]])
    x = g.numpy().astype(np.float64)
    np.testing.assert_allclose(squared_norms(g).numpy(), (x * x).sum(1), rtol=1e-12)
    np.testing.assert_allclose(gram(g).numpy(), x @ x.T, rtol=1e-9, atol=1e-9)
    expected = ((x[:, None] - x) ** 2).sum(2)
    np.testing.assert_allclose(squared_distances(g).numpy(), expected, rtol=1e-9)


def test_float32_squares_that_overflow_or_vanish_in_float32_do_not_in_a_norm() -> None:
    assert torch.equal(squared_norms(torch.tensor([[1e30], [1e-30]])).sqrt().float(), torch.tensor([1e30, 1e-30]))


def test_near_pairs_are_recomputed_from_their_difference() -> None:
    base = torch.full((1, 1000), 1e4)
    g = base.repeat(3, 1)
    g[1, 0] += 2**-9
    assert squared_distances(g).tolist() == [[0.0, 2.0**-18, 0.0], [2.0**-18, 0.0, 2.0**-18], [0.0, 2.0**-18, 0.0]]


def test_rows_that_are_not_finite_spoil_only_themselves() -> None:
    g = torch.tensor([[1.0, 2.0], [float("nan"), 0.0], [4.0, 6.0], [float("inf"), 0.0]])
    distances = squared_distances(g)
    assert distances[0, 2] == 25
    assert not distances[1].isfinite().any()
    assert finite_clients(squared_norms(g), "Rule") == [0, 2]
    assert finite_clients(distances.diagonal(), "Rule") == [0, 2]
    with pytest.raises(UsageError, match="Rule: none of the 2 uploads is finite"):
        finite_clients(squared_norms(g[[1, 3]]), "Rule")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3))
def test_distances_are_those_of_the_translated_points(seed: int, scale: float) -> None:
    g = scale * torch.randn(5, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(squared_distances(g + g[0]), squared_distances(g), rtol=1e-8, atol=1e-8 * scale**2)


def test_cross_products_of_long_rows_and_of_rows_that_are_left_out() -> None:
    g = torch.randn(5, 2 * BLOCK + 17, generator=torch.Generator().manual_seed(3))
    x = g.double()
    torch.testing.assert_close(gram(g, g[3:]), x @ x[3:].T, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(gram([*g]), gram(g), rtol=0, atol=0)
    squared, along = norms_and_products(g, g[0])
    torch.testing.assert_close(squared, x.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(along, x @ x[0], rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(distances_from(g[0], g), (x - x[0]).norm(dim=1), rtol=1e-7, atol=0)
    shares, holes = torch.rand(2, 3, generator=torch.Generator().manual_seed(4)), g.clone()
    holes[[0, 3]] = torch.nan
    torch.testing.assert_close(combinations(shares, holes, [1, 2, 4]), shares @ g[[1, 2, 4]], rtol=1e-5, atol=1e-5)


def test_lengths_of_differences_are_good_to_eight_digits_of_what_is_subtracted() -> None:
    """Far from zero, and beside an upload of 1e30: the bound that :func:`lengths` states, checked against float64."""
    for shift in (0.0, 1e2, 1e4):
        for size in (1.0, 1e30):
            g = torch.randn(5, 3000, generator=torch.Generator().manual_seed(5)).add_(shift)
            g[4] *= size
            products = gram(g)
            unit = torch.eye(5, dtype=torch.float64)
            for k in range(4):
                coefficients = unit[0] - unit[k]
                terms = (coefficients[:, None] * coefficients * products).abs().sum()
                exact = (g[0].double() - g[k]).norm()
                error = (lengths(coefficients, products) - exact).abs()
                assert error <= torch.sqrt(2**-52 * 5 * terms)
