"""Monitors of collapse and the guard against numbers that are none."""

import math

import pytest
import torch

from shared.errors import RunError, UsageError
from shared.non_finite import NonFiniteGuard, all_finite
from usssl.collapse import collapse_monitors, effective_rank, relative_deviation


def test_directions_spread_over_the_sphere_deviate_as_they_should() -> None:
    z = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert relative_deviation(7 * z).item() == pytest.approx(1, abs=0.02)
    assert relative_deviation(z[:1].expand(9, -1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)], ids=str)
def test_effective_rank_is_its_definition(shape: tuple[int, int]) -> None:
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(z.double())
    shares = values / values.sum()
    wanted = math.exp(-sum(float(p) * math.log(float(p)) for p in shares))
    assert effective_rank(z).item() == pytest.approx(wanted)
    assert effective_rank(z[:, :1] @ z[:1]).item() == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_told_is_not_said() -> None:
    assert collapse_monitors(torch.ones(1, 4)) == {}
    assert set(collapse_monitors(torch.ones(2, 4))) == {"collapse/relative_deviation", "collapse/effective_rank"}
    assert effective_rank(torch.zeros(3, 4)).isfinite()


def test_the_guard_counts_those_in_a_row() -> None:
    guard = NonFiniteGuard(2)
    guard.skip("loss", 0, 0, 0.1, "32-true")
    guard.passed()
    guard.skip("loss", 0, 2, 0.1, "32-true")
    other = NonFiniteGuard(2)
    other.restore(guard.state())
    assert other.skipped == 2
    with pytest.raises(RunError, match=r"gradient .* batch 3 of epoch 1 \(learning rate 0.25, precision 16-mixed\)"):
        other.skip("gradient", 1, 3, 0.25, "16-mixed")
    with pytest.raises(UsageError, match="max_non_finite must be at least 1, got 0"):
        NonFiniteGuard(0)


def test_all_finite() -> None:
    assert all_finite([])
    assert all_finite([torch.ones(3), torch.zeros(2, 2)])
    assert not all_finite([torch.ones(3), torch.tensor([1.0, torch.nan])])
    assert not all_finite([torch.tensor([torch.inf])])
