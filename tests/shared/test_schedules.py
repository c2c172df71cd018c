import io
import math
from collections.abc import Callable

import pytest
import torch
from jsonargparse import ArgumentParser
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from shared.errors import UsageError
from shared.schedules import WarmupCosineLR, WarmupPolyLR


def rates(make: Callable[[Optimizer], LRScheduler], steps: int, base: float) -> list[float]:
    """The rate with which each optimiser step is taken."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_poly_follows_the_reference_clock() -> None:
    seen = rates(lambda o: WarmupPolyLR(o, total_steps=100, warmup_steps=10, exponent=7), 130, 8e-4)
    expected = [8e-5] + [8e-4 * i / 10 for i in range(1, 11)]
    expected += [8e-4 * max(0.0, 1 - (i - 1 - 10) / 100) ** 7 for i in range(11, 130)]
    assert seen == pytest.approx(expected, rel=1e-12)
    assert seen[12] == pytest.approx(7.4565e-4, rel=1e-5)
    assert seen[129] == 0


def test_poly_without_warm_up_starts_at_the_base_rate() -> None:
    seen = rates(lambda o: WarmupPolyLR(o, total_steps=10, warmup_steps=0, exponent=1), 12, 1.0)
    assert seen == pytest.approx([1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0])


def test_cosine_of_the_self_supervised_recipes() -> None:
    seen = rates(lambda o: WarmupCosineLR(o, 200, warmup_steps=20, floor=0.001), 210, 2.0)
    q = [(1 + math.cos(math.pi * (t - 20) / 180)) / 2 for t in range(20, 200)]
    assert seen[:20] == pytest.approx([2 * t / 20 for t in range(20)])
    assert seen[20:200] == pytest.approx([2 * (v + 0.001 * (1 - v)) for v in q])
    assert seen[200:] == pytest.approx([0.002] * 10)


def test_cosine_of_clip() -> None:
    seen = rates(lambda o: WarmupCosineLR(o, 50, warmup_steps=20, from_zero=False), 55, 1.0)
    assert seen[:20] == pytest.approx([(t + 1) / 20 for t in range(20)])
    assert seen[20:50] == pytest.approx([(1 + math.cos(math.pi * (t - 20) / 30)) / 2 for t in range(20, 50)])
    assert seen[50:] == pytest.approx([0.0] * 5, abs=1e-12)


def test_a_schedule_resumes_where_it_was() -> None:
    def make() -> tuple[Optimizer, LRScheduler]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        return optimizer, WarmupPolyLR(optimizer, 40, warmup_steps=5)

    optimizer, scheduler = make()
    for _ in range(12):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, resumed = make()
    again.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["scheduler"])
    for _ in range(10):
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for one, other in ((optimizer, scheduler), (again, resumed)):
            one.step()
            other.step()


def test_a_config_chooses_the_schedule_and_the_run_gives_the_steps() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--schedule", type=Callable[[Optimizer, int], LRScheduler])
    options = ["--schedule=shared.schedules.WarmupPolyLR", "--schedule.warmup_steps=4", "--schedule.exponent=2"]
    make = parser.instantiate_classes(parser.parse_args(options)).schedule
    assert rates(lambda o: make(o, 8), 6, 1.0) == pytest.approx([0.25, 0.25, 0.5, 0.75, 1, 1])


def test_a_length_in_epochs_is_that_many_times_an_epochs_steps() -> None:
    def in_epochs(optimizer: Optimizer) -> LRScheduler:
        scheduler = WarmupPolyLR(optimizer, warmup_steps=3, epochs=5)
        scheduler.set_steps_per_epoch(4)
        return scheduler

    assert rates(in_epochs, 30, 0.1) == rates(lambda o: WarmupPolyLR(o, 20, warmup_steps=3), 30, 0.1)
    with pytest.raises(UsageError, match="epochs needs a training that tells how many steps an epoch has"):
        rates(lambda o: WarmupPolyLR(o, epochs=5), 2, 0.1)


def test_wrong_numbers_are_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UsageError, match="WarmupPolyLR: give total_steps or epochs, got 10 and 2"):
        WarmupPolyLR(optimizer, 10, epochs=2)
    with pytest.raises(UsageError, match="WarmupPolyLR: give total_steps or epochs, got None and None"):
        WarmupPolyLR(optimizer)
    with pytest.raises(UsageError, match="WarmupPolyLR: epochs must be at least 1, got 0"):
        WarmupPolyLR(optimizer, epochs=0)
    with pytest.raises(UsageError, match="WarmupPolyLR: total_steps must be at least 1, got 0"):
        WarmupPolyLR(optimizer, 0)
    with pytest.raises(UsageError, match="warmup_steps must not be negative, got -1"):
        WarmupPolyLR(optimizer, 10, warmup_steps=-1)
    with pytest.raises(UsageError, match="exponent must not be negative, got -2"):
        WarmupPolyLR(optimizer, 10, exponent=-2)
    with pytest.raises(UsageError, match=r"warmup_steps must be fewer than total_steps \(10\), got 10"):
        WarmupCosineLR(optimizer, 10, warmup_steps=10)
    with pytest.raises(UsageError, match=r"floor must lie in \[0, 1\], got 2"):
        WarmupCosineLR(optimizer, 10, floor=2)
