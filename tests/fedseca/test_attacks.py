"""Attacks against transcriptions of their formulas and their hand-computed cases."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from fedseca.attacks import ALIE, IPM, LabelFlip, NoAttack, SignFlip
from fedseca.attacks.alie import alie_z
from fedseca.attacks.omniscience import jittered, mean_over, std_over
from shared.errors import UsageError
from shared.federated.attack import Attack

ATTACKS: dict[str, Callable[[], Attack]] = {
    "NoAttack": NoAttack,
    "LabelFlip": LabelFlip,
    "ALIE": ALIE,
    "ALIE-formula": lambda: ALIE(z=None, benign_set="honest"),
    "IPM": IPM,
    "IPM-honest": lambda: IPM(benign_set="honest"),
    "SignFlip": SignFlip,
}


def normal(k: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(k, d, generator=torch.Generator().manual_seed(seed))


def craft(attack: Attack, g: Tensor, byzantine: list[int], ids: list[int] | None = None) -> Tensor:
    return attack(g, byzantine=byzantine, client_ids=ids or list(range(len(g))))


def slow_statistics(g: Tensor, rows: list[int]) -> tuple[list[float], list[float]]:
    means, stds = [], []
    for column in g[rows].T.tolist():
        mean = sum(column) / len(column)
        means.append(mean)
        stds.append(math.sqrt(sum((x - mean) ** 2 for x in column) / (len(column) - 1)))
    return means, stds


@pytest.mark.parametrize(("benign_set", "rows"), [("all", [0, 1, 2, 3, 4]), ("honest", [0, 1, 4])])
def test_alie_and_ipm_by_their_formulas(benign_set: str, rows: list[int]) -> None:
    g = normal(5, 30)
    mean, std = map(np.array, slow_statistics(g, rows))
    alie = craft(ALIE(z=0.7, jitter=0.0, benign_set=benign_set), g, [2, 3])
    ipm = craft(IPM(eps=1.3, jitter=0.0, benign_set=benign_set), g, [2, 3])
    for row in range(2):
        np.testing.assert_allclose(alie[row].numpy(), mean - 0.7 * std, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ipm[row].numpy(), -1.3 * mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "b", "z"),
    [(5, 2, 0.430727), (7, 2, 0.253347), (6, 2, 0.0), (20, 4, 0.157311), (25, 12, 1.426076), (10, 1, -0.139710)],
)
def test_alie_z_of_known_federations(k: int, b: int, z: float) -> None:
    assert alie_z(k, b) == pytest.approx(z, abs=1e-6)
    s = k // 2 + 1 - b
    assert alie_z(k, b) == NormalDist().inv_cdf((k - b - s) / (k - b))


@pytest.mark.parametrize("z", [None, 0, 0.0])
def test_alie_without_z_takes_the_formula(z: float | None) -> None:
    g = normal(5, 10)
    expected = craft(ALIE(z=alie_z(5, 2), jitter=0.0), g, [3, 4])
    assert torch.equal(craft(ALIE(z=z, jitter=0.0), g, [3, 4]), expected)


@pytest.mark.parametrize(("k", "b"), [(4, 3), (5, 5), (1, 0)])
def test_alie_has_no_z_for_hopeless_federations(k: int, b: int) -> None:
    with pytest.raises(UsageError, match=f"ALIE has no z of its own for {b} hostile of {k} clients"):
        alie_z(k, b)


def test_alie_of_identical_clients_is_their_mean() -> None:
    g = torch.tensor([[1.5, -2.0]]).repeat(5, 1)
    assert torch.equal(craft(ALIE(), g, [3, 4]), g[:2])


def test_alie_adds_in_weights_what_it_takes_off_updates() -> None:
    """The sign trap: mean - z std of pseudo-gradients is mean + z std of the weights that are uploaded."""
    g, origin = normal(5, 30).double(), normal(1, 30, seed=9)[0].double()
    weights = origin - g
    crafted = origin - craft(ALIE(z=0.7, jitter=0.0), g, [3, 4])
    torch.testing.assert_close(crafted[0], weights.mean(0) + 0.7 * weights.std(0))


def test_ipm_of_half_the_clients_cancels_the_rest() -> None:
    g = normal(6, 20)
    g[3:] = craft(IPM(eps=1.0, jitter=0.0, benign_set="honest"), g, [3, 4, 5])
    torch.testing.assert_close(g.mean(0), torch.zeros(20), rtol=0, atol=1e-6)


def test_sign_flip_reverses_each_clients_own_update() -> None:
    g = normal(5, 20)
    assert torch.equal(craft(SignFlip(), g, [1, 4]), -g[[1, 4]])


def test_label_flip_is_its_own_inverse() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([0, 3, 9])
    once = LabelFlip().poison((x, y), 10)
    assert once[0] is x
    assert once[1].tolist() == [9, 6, 0]
    assert LabelFlip().poison(once, 10)[1].tolist() == y.tolist() == [0, 3, 9]
    with pytest.raises(UsageError, match="LabelFlip needs a task with a number of classes, got none"):
        LabelFlip().poison((x, y), None)


@pytest.mark.parametrize("name", ["NoAttack", "LabelFlip"])
def test_data_poisoning_and_no_attack_upload_what_was_trained(name: str) -> None:
    g = normal(5, 20)
    assert torch.equal(craft(ATTACKS[name](), g, [1, 4]), g[[1, 4]])
    batch = (torch.zeros(1), torch.tensor([2]))
    assert NoAttack().poison(batch, 3) is batch


# Jitter


@pytest.mark.parametrize("make", [lambda seed: ALIE(jitter=0.05, seed=seed), lambda seed: IPM(jitter=0.05, seed=seed)])
def test_jitter_belongs_to_seed_and_client(make: Callable[[int], Attack]) -> None:
    g = normal(6, 20)
    ids = [2, 3, 5, 7, 11, 13]
    both = craft(make(1), g, [1, 4], ids)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(craft(make(1), g, [1, 4], ids), both)
    # The other hostile clients of the round and the row a client comes in do not matter.
    order = [4, 1, 0, 2, 3, 5]
    moved = craft(make(1), g[order], [0], [ids[k] for k in order])
    torch.testing.assert_close(moved[0], both[1])
    assert not torch.equal(craft(make(2), g, [1, 4], ids), both)


def test_jitter_is_uniform_around_the_strength() -> None:
    drawn = np.array([jittered(1.0, 0.05, 73, client) for client in range(2000)])
    assert 0.95 <= drawn.min() < 0.951
    assert 1.049 < drawn.max() <= 1.05
    assert abs(drawn.mean() - 1) < 0.003


# What holds for all


@pytest.mark.parametrize("name", ATTACKS)
def test_honest_rows_and_global_randomness_stay_as_they_are(name: str) -> None:
    g = normal(7, 50)
    before = g.clone()
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002  the global state is what must not be used
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    uploads = craft(ATTACKS[name](), g, [3, 4])
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002
    assert uploads.shape == (2, 50)
    uploads.fill_(9)
    assert torch.equal(g, before)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_hostile_client_this_round(name: str) -> None:
    assert craft(ATTACKS[name](), normal(5, 10), []).shape == (0, 10)


def test_statistics_do_not_depend_on_the_chunk() -> None:
    g, rows = normal(5, 1000), [0, 2, 4]
    mean = mean_over(g, rows)
    std = std_over(g, rows, mean)
    torch.testing.assert_close(std, g[rows].std(0))
    for chunk in (7, 64, 1000):
        assert torch.equal(mean_over(g, rows, chunk), mean)
        assert torch.equal(std_over(g, rows, mean, chunk), std)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ALIE(benign_set="x"), "ALIE: benign_set must be one of all, honest, got 'x'"),
        (lambda: IPM(benign_set="x"), "IPM: benign_set must be one of all, honest, got 'x'"),
        (lambda: ALIE(jitter=-1), "ALIE: jitter must not be negative, got -1"),
        (lambda: IPM(jitter=-1), "IPM: jitter must not be negative, got -1"),
        (lambda: craft(IPM(benign_set="honest"), normal(2, 3), [0, 1]), "needs an honest client, got none among 2"),
        (lambda: craft(ALIE(benign_set="honest"), normal(2, 3), [0]), "needs at least 2 of them, got 1"),
    ],
)
def test_wrong_use_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
