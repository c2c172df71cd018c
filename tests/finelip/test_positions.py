"""Stretched positions against the formula, and which table a row comes from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from finelip.positions import positions_from_tables, stretch, stretched_length
from shared.errors import UsageError


def plain_kps(p: Tensor, keep: int, ratio: int) -> Tensor:
    rows = [p[j] for j in range(keep)]
    for i in range(len(p) - keep - 1):
        rows += [(ratio - s) / ratio * p[keep + i] + s / ratio * p[keep + i + 1] for s in range(ratio)]
    rows += [p[-1] + s / ratio * (p[-1] - p[-2]) for s in range(ratio)]
    return torch.stack(rows)


def test_a_ramp_is_stretched_as_worked_out_by_hand() -> None:
    q = stretch(torch.arange(77.0)[:, None])[:, 0]
    expected = {19: 19, 20: 20, 21: 20.25, 22: 20.5, 23: 20.75, 24: 21, 243: 75.75, 244: 76, 247: 76.75}
    assert {row: q[row].item() for row in expected} == expected
    assert len(q) == 248
    assert len(stretch(torch.zeros(77, 2), keep=10)) == 278
    assert len(stretch(torch.zeros(77, 2), ratio=8)) == 476


@given(length=st.integers(3, 40), keep=st.integers(0, 38), ratio=st.integers(1, 9), seed=st.integers(0, 99))
def test_kps_is_its_formula(length: int, keep: int, ratio: int, seed: int) -> None:
    keep = min(keep, length - 2)
    p = torch.randn(length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q = stretch(p, "kps", keep, ratio)
    torch.testing.assert_close(q, plain_kps(p, keep, ratio), rtol=1e-12, atol=1e-12)
    assert len(q) == stretched_length(length, keep, ratio)
    assert torch.equal(q[:keep], p[:keep])
    assert torch.equal(q[keep::ratio], p[keep:])  # the old rows are copies, not products


def test_the_other_strategies() -> None:
    p = torch.randn(77, 8)
    assert torch.equal(stretch(p, "none"), p)
    linear = stretch(p, "linear")
    torch.testing.assert_close(linear, F.interpolate(p.T[None], size=248, mode="linear")[0].T)
    assert not torch.allclose(linear[:20], p[:20])
    drawn = stretch(p, "random", generator=torch.Generator().manual_seed(1))
    assert drawn.shape == (248, 8)
    assert torch.equal(drawn[:20], p[:20])
    assert drawn[20:].std().item() == pytest.approx(0.01, rel=0.1)
    assert torch.equal(drawn, stretch(p, "random", generator=torch.Generator().manual_seed(1)))


def test_half_precision_is_converted_before_it_is_interpolated() -> None:
    p = torch.randn(77, 8).half()
    q = stretch(p)
    assert q.dtype == torch.float32
    assert torch.equal(q, stretch(p.float()))
    assert not torch.equal(q, q.half().float())  # rounded rows would survive the way to half precision and back


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "kpss"}, "stretch must be one of kps, linear, random, none, got 'kpss'"),
        ({"keep": 76}, r"keep must lie in 0\.\.75 for a table of 77 positions, got 76"),
        ({"keep": -1}, "keep must lie in"),
        ({"ratio": 0}, "ratio must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stretch(torch.zeros(77, 2), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [3, 20, 21, 30])
def test_each_row_comes_from_one_table_and_only_trained_rows_get_a_gradient(length: int) -> None:
    frozen = torch.randn(30, 4)
    trained = torch.randn(30, 4, requires_grad=True)
    rows = positions_from_tables(frozen, trained, 20, length)
    mask = (torch.arange(30) < 20).float()[:, None]
    expected = (mask * frozen + (1 - mask) * trained)[:length]
    assert torch.equal(rows, expected)
    rows.sum().backward()
    assert trained.grad is not None
    assert torch.equal(trained.grad, (1 - mask).expand(-1, 4) * (torch.arange(30) < length).float()[:, None])


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 30 tokens for this model, got 31"):
        positions_from_tables(torch.zeros(30, 1), torch.zeros(30, 1), 20, 31)
