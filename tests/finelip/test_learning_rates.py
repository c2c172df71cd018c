"""The fixed clock at the points known by hand, and the authors' two clocks against a replay of their loop."""

import math

import pytest

from finelip.learning_rates import reference_factor, update_factor, updates_of


def test_the_fixed_clock() -> None:
    total = 1800
    assert update_factor(0, total, 200) == pytest.approx(1 / 200)
    assert update_factor(199, total, 200) == 1
    assert update_factor(200, total, 200) == 1
    assert update_factor((total + 200) // 2, total, 200) == pytest.approx(0.5)
    assert update_factor(total, total, 200) == pytest.approx(0, abs=1e-12)
    assert update_factor(7, 5, 200) == pytest.approx(8 / 200)  # shorter than its warm-up
    assert update_factor(3, 9, 0) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)


def replayed(batches: int, accumulate: int, epochs: int, warmup: int) -> list[float]:
    """The rates of the updates, from a plain rewrite of the loop that the specification describes."""
    total = epochs * batches // accumulate
    rate, used = 1.0, []
    for epoch in range(epochs):
        for i in range(batches):
            if (i + 1) % accumulate == 0:
                used.append(rate)
                clock = epoch * batches + i
                if clock < warmup:
                    rate = (clock + 1) / warmup
                else:
                    rate = 0.5 * (1 + math.cos(math.pi * (clock - warmup) / (total - warmup)))
    return used


@pytest.mark.parametrize("batches", [4, 17, 80])
@pytest.mark.parametrize("accumulate", [1, 3, 4])
def test_the_two_clocks(batches: int, accumulate: int) -> None:
    epochs, warmup = 5, 3
    wanted = replayed(batches, accumulate, epochs, warmup)
    assert len(wanted) == epochs * updates_of(batches, accumulate, drop_tail=True)
    found = [reference_factor(u, accumulate, batches, epochs, warmup) for u in range(len(wanted))]
    assert found == pytest.approx(wanted)


def test_the_course_of_the_two_clocks() -> None:
    """Base rate first, warm-up over after 50 updates, 0 after a quarter, up again at half, near the base at the end."""
    rate = [reference_factor(u, 4, 40_000, 1, 200) for u in range(10_000)]
    assert rate[0] == 1
    assert rate[1] == pytest.approx(4 / 200)
    assert rate[50] == 1
    assert rate[2500] == pytest.approx(0, abs=1e-3)
    assert rate[5000] == pytest.approx(1, abs=2e-2)
    assert rate[7500] == pytest.approx(0, abs=2e-2)
    assert rate[-1] == pytest.approx(1, abs=2e-2)
