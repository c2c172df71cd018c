"""Optimisers, schedules, momentum copies and the queue against references written from their definitions."""

import math

import pytest
import torch
from lightly.utils.lars import LARS as LarsB
from torch import Tensor, nn

from shared.errors import UsageError
from usssl.lars import LARS
from usssl.learning_rates import Constant, Cosine, StepDecay, WarmupCosine
from usssl.momentum import cosine_momentum, momentum_at, momentum_copy, update_momentum
from usssl.progress import Progress
from usssl.queue import KeyQueue


def parameters() -> list[nn.Parameter]:
    """A matrix, a filter, a vector, a vector of zeros, a matrix of zeros, a number."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2, 3, 3, 3), (5,)]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return [nn.Parameter(t) for t in (*drawn, torch.zeros(6), torch.zeros(3, 2), torch.tensor(1.5))]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    given = [torch.randn(p.shape, generator=generator) for p in parameters()]
    if step == 1:
        given[0].zero_()
    return given


def plain_lars_a(lr: float, vector_lr: float, decay: float, steps: int) -> list[Tensor]:
    values = [p.detach().clone().double() for p in parameters()]
    momenta = [torch.zeros_like(p) for p in values]
    for step in range(steps):
        for i, gradient in enumerate(gradients(step)):
            d = gradient.double()
            if d.ndim != 1:
                d = d + decay * values[i]
                p_norm, d_norm = values[i].norm(), d.norm()
                d = d * (0.001 * p_norm / d_norm if p_norm > 0 and d_norm > 0 else 1)
            momenta[i] = 0.9 * momenta[i] + d
            values[i] = values[i] - (vector_lr if d.ndim == 1 else lr) * momenta[i]
    return values


def plain_lars_b(lr: float, decay: float, steps: int) -> list[Tensor]:
    values = [p.detach().clone().double() for p in parameters()]
    momenta: list[Tensor | None] = [None] * len(values)
    for step in range(steps):
        for i, gradient in enumerate(gradients(step)):
            d = gradient.double()
            p_norm, g_norm = values[i].norm(), d.norm()
            if decay != 0 and p_norm != 0 and g_norm != 0:
                d = (d + decay * values[i]) * 0.001 * p_norm / (g_norm + decay * p_norm + 1e-8)
            before = momenta[i]
            momenta[i] = now = d if before is None else 0.9 * before + d
            values[i] = values[i] - lr * now
    return values


def run(optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], steps: int) -> list[Tensor]:
    for step in range(steps):
        for p, gradient in zip(trained, gradients(step), strict=True):
            p.grad = gradient
        optimizer.step()
    return [p.detach().double() for p in trained]


@pytest.mark.parametrize("vector_lr", [None, 0.0048])
def test_lars_a_is_its_definition(vector_lr: float | None) -> None:
    trained = parameters()
    found = run(LARS(trained, lr=0.2, vector_lr=vector_lr, weight_decay=0.01), trained, 4)
    for mine, theirs in zip(found, plain_lars_a(0.2, vector_lr or 0.2, 0.01, 4), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_lars_b_is_lightlys(decay: float) -> None:
    trained = parameters()
    found = run(LarsB(trained, lr=0.3, momentum=0.9, weight_decay=decay), trained, 4)
    for mine, theirs in zip(found, plain_lars_b(0.3, decay, 4), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_lars_goes_on_from_its_state() -> None:
    whole, halves = parameters(), parameters()
    run(LARS(whole), whole, 2)
    first = LARS(halves)
    run(first, halves, 1)
    second = LARS(halves)
    second.load_state_dict(first.state_dict())
    for p, gradient in zip(halves, gradients(1), strict=True):
        p.grad = gradient
    second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))
    with pytest.raises(UsageError, match="LARS: eta must not be negative, got -1"):
        LARS(whole, eta=-1)


# ---------------------------------------------------------------------- schedules


def test_warm_up_then_cosine() -> None:
    """E=100, N=20: at t=0 nothing, at 100 half, at 200 all, at 1999 the floor."""
    factor = WarmupCosine().factor
    assert factor(0, 20, 100) == 0
    assert factor(100, 20, 100) == 0.5
    assert factor(200, 20, 100) == 1
    assert factor(1999, 20, 100) == pytest.approx(0.001, rel=2e-3)
    for t in (300, 1000, 1700):
        q = (1 + math.cos(math.pi * (t - 200) / (90 * 20))) / 2
        assert factor(t, 20, 100) == pytest.approx(q + 0.001 * (1 - q))
    for epochs in (1, 9, 10):
        with pytest.raises(UsageError, match=rf"warmup_epochs must be fewer than the epochs .* \({epochs}\), got 10"):
            WarmupCosine().check(epochs)
    WarmupCosine().check(11)
    assert WarmupCosine(0).factor(0, 20, 5) == 1


@pytest.mark.parametrize("batches", [3, 7, 200])
def test_the_reference_cosine_is_torchs_stepped_by_epochs_with_batches_for_its_period(batches: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=batches)
    for epoch in range(10):
        found = Cosine("reference").factor(epoch * batches + batches - 1, batches, 10)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_other_schedules() -> None:
    assert [Cosine("epoch").factor(t, 4, 10) for t in (0, 3, 20)] == [1, 1, 0.5]
    assert [Cosine("step").factor(t, 4, 10) for t in (0, 20, 40, 41)] == pytest.approx([1, 0.5, 0, 0])
    stairs = [1e-3 * StepDecay().factor(epoch * 3, 3, 1000) for epoch in (0, 49, 50, 99, 100, 149)]
    assert stairs == pytest.approx([1e-3, 1e-3, 5.624e-4, 5.624e-4, 3.163e-4, 3.163e-4], rel=1e-4)
    assert Constant().factor(99, 3, 5) == 1
    with pytest.raises(UsageError, match="clock must be step, epoch or reference, got 'batch'"):
        Cosine("batch")  # type: ignore[arg-type]


# ---------------------------------------------------------------------- momentum copies


def test_momentum_rises_to_one() -> None:
    for e in range(10):
        wanted = 1 - (1 - 0.996) * (math.cos(math.pi * e / 9) + 1) / 2
        assert cosine_momentum(0.996, e, 10) == pytest.approx(wanted, abs=1e-12)
        assert momentum_at(0.996, "epoch", Progress(e, 10, 5 * e + 3, 50)) == cosine_momentum(0.996, e, 10)
    assert cosine_momentum(0.996, 0, 10) == pytest.approx(0.996)
    assert cosine_momentum(0.996, 9, 10) == cosine_momentum(0.996, 0, 1) == cosine_momentum(0.996, 12, 10) == 1
    assert momentum_at(0.9, "step", Progress(0, 2, 5, 11)) == pytest.approx(0.95)


def test_copies_follow_by_parameters_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy = momentum_copy(network)
    assert not any(p.requires_grad for p in copy.parameters())
    before = {name: t.clone() for name, t in copy.state_dict().items()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    network(torch.randn(5, 3))
    update_momentum(network, copy, 0.75)
    state = network.state_dict()
    for name, t in copy.state_dict().items():
        moved = name in dict(copy.named_parameters())
        torch.testing.assert_close(t, 0.75 * before[name] + 0.25 * state[name] if moved else before[name])
    still = {name: t.clone() for name, t in copy.state_dict().items()}
    update_momentum(network, copy, 1.0)
    assert all(torch.equal(t, still[name]) for name, t in copy.state_dict().items())


# ---------------------------------------------------------------------- queue


def plain_queue(size: int, batches: list[Tensor], ring: bool, keys: Tensor) -> tuple[Tensor, int]:
    keys, pointer = keys.clone(), 0
    for batch in batches:
        if ring:
            for key in batch:
                keys[pointer] = key
                pointer = (pointer + 1) % size
        elif pointer + len(batch) >= size:
            keys[pointer:] = batch[: size - pointer]
            pointer = 0
        else:
            keys[pointer : pointer + len(batch)] = batch
            pointer += len(batch)
    return keys, pointer


@pytest.mark.parametrize("sizes", [[12, 12, 12, 12, 12], [32, 5], [40, 3], [70], [31, 1, 1], [1] * 33], ids=str)
@pytest.mark.parametrize("wrap", ["reference", "ring"])
def test_queue(wrap: str, sizes: list[int]) -> None:
    queue = KeyQueue(32, 4, wrap)  # type: ignore[arg-type]
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(32))
    batches = [torch.randn(size, 4) for size in sizes]
    keys, pointer = plain_queue(32, batches, wrap == "ring", queue.keys)
    for batch in batches:
        queue.enqueue(batch)
    assert torch.equal(queue.keys, keys)
    assert int(queue.pointer) == pointer
    assert set(queue.state_dict()) == {"keys", "pointer"}


def test_queue_refuses() -> None:
    with pytest.raises(UsageError, match="queue_size must be at least 1, got 0"):
        KeyQueue(0)
    with pytest.raises(UsageError, match="wrap must be reference or ring, got 'round'"):
        KeyQueue(8, 4, "round")  # type: ignore[arg-type]
