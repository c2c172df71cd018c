"""Scale, Fang, MinMax and MinSum, the released constant, the tailored search, Random: formulas, oracles, traps."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseca.aggregators import (
    CenteredClipping,
    CoordinateMedian,
    FedAvg,
    FedSECA,
    FLTrust,
    Krum,
    PreAggregated,
    TrimmedMean,
)
from fedseca.attacks import (
    ALIE,
    IPM,
    ROP,
    AGRTailored,
    Fang,
    LabelFlip,
    Mimic,
    MinMax,
    MinMaxSumReleased,
    MinSum,
    Random,
    Scale,
)
from fedseca.attacks.agr_tailored import highest
from fedseca.attacks.min_max import halving_search
from fedseca.attacks.perturbation import perturbation_of
from fedseca.pre_aggregation import StaticClipping
from shared.errors import UsageError
from shared.federated.aggregation import VectorAggregator
from shared.federated.attack import Attack
from shared.federated.vectors import VectorLayout

OMNISCIENT: dict[str, Callable[[], Attack]] = {
    "Scale": Scale,
    "Scale-update": lambda: Scale(on="update"),
    "Fang": Fang,
    "Fang-honest": lambda: Fang(benign_set="honest"),
    "Mimic": Mimic,
    "Mimic-cited": lambda: Mimic(form="cited", space="updates"),
    "MinMax": MinMax,
    "MinMax-std": lambda: MinMax("std", benign_set="honest"),
    "MinSum": MinSum,
    "MinSum-sign": lambda: MinSum("sign"),
    "MinMaxSumReleased": MinMaxSumReleased,
    "AGRTailored": AGRTailored,
    "ROP": ROP,
    "Random": Random,
}


def normal(k: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed))


def craft(attack: Attack, g: Tensor, byzantine: list[int], ids: list[int] | None = None, **context: Any) -> Tensor:
    context = {"origin": torch.zeros(g.shape[1]), "aggregator": FedAvg()} | context
    context.setdefault("generator", torch.Generator().manual_seed(1))
    return attack(g, byzantine=byzantine, client_ids=ids or list(range(len(g))), **context)


# ---------------------------------------------------------------------- Scale


def test_scale_multiplies_the_uploaded_weights() -> None:
    g, origin = normal(5, 30), normal(1, 30, seed=9)[0]
    uploads = origin - craft(Scale(), g, [3, 4], origin=origin)
    torch.testing.assert_close(uploads, 10 * (origin - g[[3, 4]]))
    torch.testing.assert_close(craft(Scale(on="update"), g, [3, 4], origin=None), 10 * g[[3, 4]])


def test_scaled_weights_leave_integer_counters_alone() -> None:
    """The released program turns BatchNorm's step counters into floating point numbers, ten times too large."""
    norm = torch.nn.BatchNorm1d(3)
    norm(normal(4, 3))
    state = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    layout = VectorLayout(state)
    origin = torch.zeros(layout.size)
    layout.write(origin - craft(Scale(), -layout.flatten(state)[None], [0], origin=origin)[0], state)
    assert state["num_batches_tracked"].dtype == torch.int64
    assert int(state["num_batches_tracked"]) == 1
    torch.testing.assert_close(state["running_var"], 10 * norm.running_var)


def test_a_flipped_label_may_be_a_class_without_images() -> None:
    assert LabelFlip().poison((None, torch.tensor([0, 7])), num_classes=9)[1].tolist() == [8, 1]


# ---------------------------------------------------------------------- Fang


@pytest.mark.parametrize(("benign_set", "rows"), [("all", [0, 1, 2, 3, 4]), ("honest", [0, 1, 2])])
def test_fang_by_its_formula_on_weights(benign_set: str, rows: list[int]) -> None:
    g, origin = normal(5, 40).double(), normal(1, 40, seed=9)[0].double()
    g[:, 7] = 0
    weights = (origin - g).numpy()
    for row, k in enumerate([3, 4]):
        crafted = origin - craft(Fang(lam=0.1, jitter=0.0, benign_set=benign_set), g, [3, 4], origin=origin)[row]
        for j in range(40):
            mean = weights[rows, j].mean()
            sign = 1 if mean > origin[j] else -1
            if j == 7:
                sign = -1  # the tie; rounding of the weights must not decide it
            assert float(crafted[j]) == pytest.approx(mean - 0.1 * sign, abs=1e-9), k


def test_two_fang_attackers_differ_by_their_jitter_alone() -> None:
    first, second = craft(Fang(jitter=0.05), normal(6, 20), [4, 5])
    gap = (first - second).abs()
    assert 0 < float(gap.max()) <= 0.1
    torch.testing.assert_close(gap, gap.max().expand(20))
    torch.testing.assert_close(craft(Fang(jitter=0.05), normal(6, 20), [5])[0], second)


# ---------------------------------------------------------------------- MinMax and MinSum


def slow_gamma(g: np.ndarray, rows: list[int], kind: str, p: np.ndarray, limit: str = "max") -> float:
    """Algorithm 1 of the paper, with every distance taken anew in every trial."""
    benign, mean = g[rows], g[rows].mean(0)
    between = ((benign[:, None] - benign[None]) ** 2).sum(-1)
    bound = between.max() if kind == "max" else getattr(between.sum(1), limit)()
    success, gamma, step = 0.0, 10.0, 10.0
    while abs(success - gamma) > 1e-5:
        distances = ((mean - gamma * p - benign) ** 2).sum(-1)
        if (distances.max() if kind == "max" else distances.sum()) <= bound:
            success, gamma = gamma, gamma + step / 2
        else:
            gamma -= step / 2
        step /= 2
    return success


@pytest.mark.parametrize("perturbation", ["unit_vec", "sign", "std"])
@pytest.mark.parametrize("benign_set", ["all", "honest"])
@pytest.mark.parametrize("rule", ["max", "sum", "sum-min"])
def test_min_max_and_min_sum_by_their_algorithm(rule: str, benign_set: Any, perturbation: Any) -> None:
    g = normal(7, 60).double() + 0.5
    rows = list(range(7)) if benign_set == "all" else [0, 1, 2, 3, 4]
    mean = g[rows].mean(0)
    p = {"unit_vec": mean / mean.norm(), "sign": mean.sign(), "std": g[rows].std(0)}[perturbation]
    kind, _, limit = rule.partition("-")
    options = {"perturbation": perturbation, "benign_set": benign_set}
    attack = MinMax(**options) if kind == "max" else MinSum(**options, limit=limit or "max")
    gamma = slow_gamma(g.numpy(), rows, kind, p.numpy(), limit or "max")
    crafted = craft(attack, g, [5, 6])
    torch.testing.assert_close(crafted, (mean - gamma * p).expand(2, -1), atol=2e-5, rtol=0)
    if rule == "max":
        assert gamma > 0.1  # the sign option is not an error here, nor is the search idle


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 7), st.integers(1, 50), st.integers(0, 999), st.sampled_from(["unit_vec", "sign", "std"]))
def test_min_max_stays_within_the_honest_spread(k: int, d: int, seed: int, perturbation: Any) -> None:
    g = normal(k, d, seed).double()
    crafted = craft(MinMax(perturbation), g, [0])[0]
    assert float((crafted - g).norm(dim=1).max()) <= float(torch.cdist(g, g).max()) * (1 + 1e-9) + 1e-9
    crafted = craft(MinSum(perturbation), g, [0])[0]
    sums = torch.cdist(g, g).square().sum(1)
    assert float((crafted - g).square().sum()) <= float(sums.max()) * (1 + 1e-9) + 1e-9


@given(st.floats(1e-3, 19.9))
def test_the_halving_search_finds_the_edge(edge: float) -> None:
    assert abs(halving_search(lambda gamma: gamma <= edge, 10.0, 1e-5) - edge) <= 2e-5


def test_the_halving_search_without_success_gives_zero() -> None:
    assert halving_search(lambda gamma: False, 10.0, 1e-5) == 0


@pytest.mark.parametrize("attack", [MinMax, MinSum, lambda: MinMax("std"), lambda: MinSum("sign")])
def test_identical_clients_leave_no_room(attack: Callable[[], Attack]) -> None:
    g = torch.tensor([[1.5, -2.0]]).repeat(5, 1)
    torch.testing.assert_close(craft(attack(), g, [3, 4]), g[:2], atol=3e-5, rtol=0)


def test_the_direction_of_a_zero_mean_is_zero() -> None:
    g = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    assert perturbation_of(g, [0, 1], torch.zeros(2), "unit_vec").tolist() == [0, 0]
    assert torch.isfinite(craft(MinMax(), g, [1])).all()


# ---------------------------------------------------------------------- the released constant


def test_the_released_search_ends_at_15_and_so_does_the_constant() -> None:
    """Every trial counts as better than a best value that stays at -1: the steps 10, 12.5, 13.75 … of the release."""
    best, gamma, step = -1.0, 10.0, 5.0
    trials = []
    while step > 1e-5:
        trials.append(gamma)
        gamma = gamma + step / 2 if best < 0.0 else gamma - step / 2
        step /= 2
    assert trials[:3] == [10, 12.5, 13.75]
    g = normal(5, 20)
    mean = g.mean(0)
    torch.testing.assert_close(craft(MinMaxSumReleased(), g, [3, 4])[1], mean - gamma * mean / mean.norm())
    assert gamma == pytest.approx(15, abs=2e-5)


# ---------------------------------------------------------------------- tailored to the rule


@pytest.mark.parametrize("rule", [Krum, lambda: TrimmedMean(b=1), CoordinateMedian, lambda: Krum(b=1, m=3)])
def test_the_tailored_step_beats_every_other(rule: Callable[[], VectorAggregator]) -> None:
    g = normal(7, 40) * 0.3 + 1
    hostile = [5, 6]
    mean = g.mean(0)

    def error(gamma: float) -> float:
        uploads = g.clone()
        uploads[hostile] = mean - gamma * mean / mean.norm()
        return float((rule()(uploads) - mean).norm())

    crafted = craft(AGRTailored(limit=64.0), g, hostile, aggregator=rule())
    uploads = g.clone()
    uploads[hostile] = crafted
    reached = float((rule()(uploads) - mean).norm())
    assert reached >= 0.97 * max(error(gamma) for gamma in np.geomspace(0.05, 64, 150))
    assert reached > error(15.0) - 1e-6


def test_against_plain_averaging_the_largest_step_is_best() -> None:
    g = normal(5, 10)
    mean = g.mean(0)
    torch.testing.assert_close(craft(AGRTailored(limit=50.0), g, [4])[0], mean - 50 * mean / mean.norm())


@given(st.floats(0.1, 90), st.floats(0, 1))
def test_the_search_climbs_a_peak_with_a_plateau_behind(edge: float, plateau: float) -> None:
    found = highest(lambda x: x if x <= edge else plateau * edge / 2, 100.0, 1e-3)
    assert 0.99 * edge <= found <= edge


class Dice(VectorAggregator):
    """A rule with a memory, a generator of its own, and a taste for the global one."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rounds", torch.tensor(0))
        self.generator = np.random.default_rng(3)

    def combine(self, updates: Tensor, **context: Any) -> Tensor:
        self.rounds += 1
        chosen = int(torch.rand(()) * 2) + int(self.generator.integers(2))
        self.diagnostics = {"chosen": torch.tensor(chosen)}
        return updates[chosen].clone()


@pytest.mark.parametrize("rule", [FLTrust(), PreAggregated([StaticClipping(1.0)], FLTrust())])
def test_the_tailored_search_refuses_a_rule_with_clean_data_of_its_own(rule: VectorAggregator) -> None:
    told = f"AGRTailored needs a rule that it can try out without the server's clean data, got {type(rule).__name__}"
    with pytest.raises(UsageError, match=f"^{told}$"):
        AGRTailored().check(rule)
    with pytest.raises(UsageError, match=f"^{told}$"):
        craft(AGRTailored(), torch.ones(3, 2), [2], aggregator=rule)
    AGRTailored().check(FedAvg())


def test_the_server_never_notices_the_tailored_search() -> None:
    g, rule = normal(5, 20), Dice()
    rule(g)
    before = deepcopy(rule)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    craft(AGRTailored(), g, [3, 4], aggregator=rule)
    assert torch.equal(torch.rand(3), expected)
    assert int(rule.rounds) == 1
    assert rule.diagnostics == before.diagnostics
    assert rule.generator.integers(1 << 30) == before.generator.integers(1 << 30)


@pytest.mark.parametrize("rule", [FedSECA, CenteredClipping])
def test_momentum_stays(rule: Callable[[], VectorAggregator]) -> None:
    g, server = normal(5, 20), rule()
    server.setup(20)
    server(normal(5, 20, seed=4))
    before = {name: tensor.clone() for name, tensor in server.state_dict().items()}
    craft(AGRTailored(), g, [3, 4], aggregator=server)
    assert all(torch.equal(tensor, before[name]) for name, tensor in server.state_dict().items())


class Suspicious(VectorAggregator):
    """Averages with the last client only while it is no farther out than remembered."""

    def __init__(self, remembered: float) -> None:
        super().__init__()
        self.register_buffer("reach", torch.tensor(remembered))

    def combine(self, updates: Tensor, **context: Any) -> Tensor:
        trusted = updates[-1].norm() <= self.reach
        self.reach /= 2  # a trial that saw the state of another trial would give other answers
        return updates.mean(0) if trusted else updates[:-1].mean(0)


@pytest.mark.parametrize("reach", [3.0, 30.0])
def test_every_trial_starts_from_the_state_of_the_server(reach: float) -> None:
    g = normal(5, 20) * 0.1 + 1
    assert 0.98 * reach < float(craft(AGRTailored(tol=1e-3), g, [4], aggregator=Suspicious(reach)).norm()) <= reach


# ---------------------------------------------------------------------- Random


def test_random_weights_are_uniform_and_belong_to_the_round() -> None:
    g, origin = normal(5, 4000), normal(1, 4000, seed=9)[0]
    uploads = origin - craft(Random(), g, [3, 4], origin=origin)
    assert uploads.min() > -1e-6
    assert uploads.max() < 1 + 1e-6
    assert abs(float(uploads.mean()) - 0.5) < 0.02
    assert not torch.equal(uploads[0], uploads[1])
    torch.testing.assert_close(origin - craft(Random(), g, [3, 4], origin=origin), uploads)
    other = torch.Generator().manual_seed(2)
    assert not torch.equal(origin - craft(Random(), g, [3, 4], origin=origin, generator=other), uploads)


# ---------------------------------------------------------------------- oracle 8 and what holds for all


def test_ipm_of_half_the_clients_and_alie_of_equal_ones() -> None:
    g = normal(8, 20)
    g[4:] = craft(IPM(eps=1.0, jitter=0.0, benign_set="honest"), g, [4, 5, 6, 7])
    torch.testing.assert_close(g.mean(0), torch.zeros(20), rtol=0, atol=1e-6)
    same = normal(1, 20).expand(5, -1)
    torch.testing.assert_close(craft(ALIE(), same, [3, 4]), same[:2])


@pytest.mark.parametrize("name", OMNISCIENT)
def test_nothing_but_hostile_rows_is_touched(name: str) -> None:
    g, origin = normal(7, 50), normal(1, 50, seed=9)[0]
    before, start = g.clone(), origin.clone()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  the global state is what must not be used
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    uploads = craft(OMNISCIENT[name](), g, [3, 4], origin=origin)
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002
    assert uploads.shape == (2, 50)
    assert torch.isfinite(uploads).all()
    uploads.fill_(9)
    assert torch.equal(g, before)
    assert torch.equal(origin, start)


@pytest.mark.parametrize("name", OMNISCIENT)
def test_an_upload_does_not_depend_on_the_other_hostile_clients_being_named(name: str) -> None:
    assert craft(OMNISCIENT[name](), normal(5, 10), []).shape == (0, 10)


@pytest.mark.parametrize("name", [name for name in OMNISCIENT if name != "Random"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_vectors_is_kept(name: str, dtype: torch.dtype) -> None:
    g = normal(5, 20).to(dtype)
    assert craft(OMNISCIENT[name](), g, [3], origin=torch.zeros(20, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", OMNISCIENT)
def test_float32_agrees_with_float64(name: str) -> None:
    g, origin = normal(7, 200), normal(1, 200, seed=9)[0]
    single = craft(OMNISCIENT[name](), g, [3, 4], origin=origin)
    double = craft(OMNISCIENT[name](), g.double(), [3, 4], origin=origin.double())
    # Fang steps by the sign of the mean, the tailored search by what is highest: no rounding tips either here.
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["Fang", "MinMax", "MinSum", "MinMaxSumReleased"]), st.integers(0, 99), st.permutations(range(4))
)
def test_the_order_of_honest_clients_does_not_matter(name: str, seed: int, order: list[int]) -> None:
    g = normal(6, 30, seed).double()
    moved = g[[*order, 4, 5]]
    torch.testing.assert_close(craft(OMNISCIENT[name](), moved, [4, 5]), craft(OMNISCIENT[name](), g, [4, 5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scale(on="x"), "Scale: on must be one of weights, update, got 'x'"),
        (lambda: craft(Scale(), normal(3, 4), [0], origin=None), "Scale needs origin"),
        (lambda: Fang(jitter=-1), "Fang: jitter must not be negative, got -1"),
        (lambda: Fang(benign_set="x"), "Fang: benign_set must be one of all, honest, got 'x'"),
        (lambda: MinMax("x"), "MinMax: perturbation must be one of unit_vec, sign, std, got 'x'"),
        (lambda: MinSum(tol=0), "MinSum: tol must be positive, got 0"),
        (lambda: MinSum(limit="x"), "MinSum: limit must be one of max, min, got 'x'"),
        (lambda: MinMax(start=-1), "MinMax: start must be positive, got -1"),
        (lambda: craft(MinMax("std", benign_set="honest"), normal(2, 3), [0]), "needs at least 2 of them, got 1"),
        (lambda: MinMaxSumReleased(benign_set="x"), "MinMaxSumReleased: benign_set must be one of"),
        (lambda: AGRTailored(limit=0), "AGRTailored: limit must be positive, got 0"),
        (lambda: craft(AGRTailored(), normal(3, 4), [0], aggregator=None), "needs the server's rule on vectors, got N"),
        (lambda: craft(Random(), normal(3, 4), [0], generator=None), "Random needs generator"),
        (lambda: craft(Random(), normal(3, 4), [0], origin=None), "Random needs origin"),
    ],
)
def test_wrong_use_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in OMNISCIENT if name != "Random"])
def test_an_accelerator_gives_the_same_uploads(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an accelerator")
    g, origin = normal(7, 70_000), normal(1, 70_000, seed=9)[0]
    here = craft(OMNISCIENT[name](), g, [3, 4], origin=origin)
    attack = OMNISCIENT[name]().cuda()
    there = craft(attack, g.cuda(), [3, 4], origin=origin.cuda())
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-5)
