"""What holds for every rule there is: found by name, so that a new one cannot be forgotten."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fedseca import aggregators
from fedseca.aggregators import PreAggregated, TrimmedMean
from fedseca.pre_aggregation import NNM
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator

OPTIONS: dict[str, Callable[[], VectorAggregator]] = {
    "PreAggregated": lambda: PreAggregated([NNM(1)], TrimmedMean(1)),
    "FLDetector": lambda: aggregators.FLDetector(window=2),
}
D = 120


def make(name: str) -> VectorAggregator:
    rule: VectorAggregator = OPTIONS.get(name, getattr(aggregators, name))()
    return rule


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(rule: VectorAggregator, rounds: int = 4, dtype: torch.dtype = torch.float32, start: int = 0) -> list[Tensor]:
    side = {"origin": normal(D, seed=77).to(dtype), "reference": normal(D, seed=78).to(dtype)}
    return [rule(normal(8, D, seed=t).to(dtype), round=t, **side) for t in range(start, start + rounds)]


@pytest.fixture(params=aggregators.__all__)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_and_global_random_state_stay(name: str, dtype: torch.dtype) -> None:
    g, origin, reference = normal(8, D).to(dtype), normal(D, seed=1).to(dtype), normal(D, seed=2).to(dtype)
    before = [x.clone() for x in (g, origin, reference)]
    random = torch.random.get_rng_state()
    rule, untouched = make(name), make(name)
    for t in range(4):
        u = rule(g, origin=origin, reference=reference, round=t)
        assert torch.equal(untouched(g, origin=origin, reference=reference, round=t), u)
        assert u.shape == (D,)
        assert u.dtype == dtype
        u.fill_(7)  # what the caller does with its update must reach neither the uploads nor the state
        assert all(torch.equal(a, b) for a, b in zip((g, origin, reference), before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random)


def test_float32_agrees_with_float64(name: str) -> None:
    for single, double in zip(run(make(name)), run(make(name), dtype=torch.float64), strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_state_survives_a_checkpoint_and_a_copy(name: str) -> None:
    whole, resumed = make(name), make(name)
    whole.setup(D)
    run(whole, 3)
    resumed.setup(D)
    resumed.load_state_dict(whole.state_dict())
    copied = copy.deepcopy(whole)
    expected = run(whole, 3, start=3)
    for rule in (resumed, copied):
        assert all(torch.equal(a, b) for a, b in zip(run(rule, 3, start=3), expected, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_uploads_that_are_not_finite_are_left_out_and_counted(name: str, bad: float) -> None:
    if name == "FedAvg":
        pytest.skip("the engine keeps such uploads from every rule; this one defends nothing by itself")
    g, origin, reference = normal(9, D).float(), normal(D, seed=1).float(), normal(D, seed=2).float()
    g[3, 5], g[6] = bad, -bad
    rule = make(name)
    u = rule(g, origin=origin, reference=reference)
    clean = g[[0, 1, 2, 4, 5, 7, 8]]
    torch.testing.assert_close(u, make(name)(clean, origin=origin, reference=reference), rtol=1e-5, atol=1e-6)
    assert rule.diagnostics["dropped"].item() == 2
    with pytest.raises((UsageError, RuntimeError), match=r"finite|needs|strikes"):
        make(name)(torch.full((9, D), bad), origin=origin, reference=reference)


def test_least_number_of_clients_is_accepted_and_one_less_refused(name: str) -> None:
    rule = make(name)
    rule.check(rule.min_clients)
    rule(normal(rule.min_clients, D), origin=normal(D), reference=normal(D))
    with pytest.raises(UsageError, match="need"):
        rule.check(rule.min_clients - 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_accelerator_agrees_with_cpu(name: str) -> None:
    rule, other, origin, reference = make(name), make(name), normal(D, seed=1), normal(D, seed=2)
    for t in range(4):
        g = normal(8, D, seed=t)
        u = rule(g.cuda(), origin=origin.cuda(), reference=reference.cuda(), round=t)
        torch.testing.assert_close(u.cpu(), other(g, origin=origin, reference=reference, round=t))
