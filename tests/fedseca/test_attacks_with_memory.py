"""Mimic and ROP: formulas over several rounds, what they remember, and that it survives a checkpoint."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedseca.attacks import ROP, Mimic
from fedseca.attacks.omniscience import jittered
from fedseca.attacks.rop import turned
from shared.errors import UsageError
from shared.federated.attack import Attack

D = 24
STATEFUL: dict[str, Callable[[], Attack]] = {
    "Mimic": Mimic,
    "Mimic-cited": lambda: Mimic(form="cited", warm_up=2),
    "Mimic-updates": lambda: Mimic(space="updates"),
    "ROP": ROP,
}


def rounds(count: int, k: int = 6, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Updates and global vectors of a few rounds; clients keep a direction of their own, as real ones do."""
    generator = torch.Generator().manual_seed(seed)
    own, origin = torch.randn(k, D, generator=generator), torch.randn(D, generator=generator)
    history = []
    for _ in range(count):
        g = 0.1 * own + 0.05 * torch.randn(k, D, generator=generator)
        history.append((g.double(), origin.double()))
        origin = origin - g.mean(0)
    return history


def craft(
    attack: Attack, g: Tensor, origin: Tensor | None, byzantine: list[int], ids: list[int] | None = None
) -> Tensor:
    return attack(g, byzantine=byzantine, client_ids=ids or list(range(len(g))), origin=origin)


# ---------------------------------------------------------------------- Mimic


def slow_mimic(
    history: list[tuple[Tensor, Tensor]], honest: list[int], form: str, space: str, warm_up: int
) -> list[int]:
    """The targets round by round, written from the formulas on x = weights or updates."""
    z = torch.rand(D, generator=torch.Generator().manual_seed(0)).double().numpy()
    mu, targets = np.zeros(D), []
    for t, (g, origin) in enumerate(history):
        if t < warm_up:
            x = (origin - g if space == "weights" else g).numpy()[honest]
            mu = t / (1 + t) * mu + x.mean(0) / (1 + t)
            if form == "elementwise":
                c = sum((row - mu) ** 2 for row in x)
                z = t / (1 + t) * z + (c / np.linalg.norm(c)) * z / (1 + t)
            else:
                z = t / (1 + t) * z + sum((row - mu) * ((row - mu) @ z) for row in x) / (1 + t)
            z = z / np.linalg.norm(z)
            target = honest[int(np.argmax(x @ z))]
        targets.append(target)
    return targets


@pytest.mark.parametrize("form", ["elementwise", "cited"])
@pytest.mark.parametrize("space", ["weights", "updates"])
@pytest.mark.parametrize("seed", range(4))
def test_mimic_by_its_formulas(form: Any, space: Any, seed: int) -> None:
    history = rounds(8, seed=seed)
    attack = Mimic(form=form, space=space)
    expected = slow_mimic(history, [0, 1, 3, 5], form, space, warm_up=5)
    for (g, origin), target in zip(history, expected, strict=True):
        crafted = craft(attack, g, origin, [2, 4])
        assert torch.equal(crafted, g[[target, target]])
    assert int(attack.learned) == 5
    assert int(attack.target) == expected[-1]


def test_the_cited_form_finds_the_direction_of_largest_variance() -> None:
    generator = torch.Generator().manual_seed(3)
    axis = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0).double()
    attack = Mimic(form="cited", space="updates", warm_up=30)
    for _ in range(30):
        along = torch.randn(6, 1, generator=generator).double()
        craft(attack, along * axis + 0.1 * torch.randn(6, D, generator=generator), None, [5])
    assert attack.direction is not None
    assert abs(float(attack.direction.double() @ axis)) > 0.95


def test_the_target_is_kept_and_hostile_clients_are_never_it() -> None:
    history = rounds(7)
    attack = Mimic(warm_up=2)
    for g, origin in history[:2]:
        crafted = craft(attack, g, origin, [0, 1])
    kept = int(attack.target)
    assert kept not in (0, 1)
    for g, origin in history[2:]:
        g = g.flip(1) * 50  # whatever happens later
        crafted = craft(attack, g, origin, [0, 1])
        assert torch.equal(crafted[0], g[kept])


def test_an_absent_target_is_replaced_for_that_round_alone() -> None:
    history = rounds(4)
    attack = Mimic(warm_up=2)
    for g, origin in history[:2]:
        craft(attack, g, origin, [5])
    kept = int(attack.target)
    g, origin = history[2]
    present = [k for k in range(6) if k != kept]
    crafted = craft(attack, g[present], origin, [present.index(5)], present)
    assert any(torch.equal(crafted[0], g[k]) for k in present[:-1])
    assert int(attack.target) == kept
    g, origin = history[3]
    assert torch.equal(craft(attack, g, origin, [5])[0], g[kept])


def test_equal_clients_are_a_tie_for_the_lowest_id() -> None:
    g, origin = torch.ones(4, D), torch.zeros(D)
    attack = Mimic()
    craft(attack, g, origin, [3], [2, 4, 6, 8])
    assert int(attack.target) == 2


# ---------------------------------------------------------------------- ROP


def slow_rop(g: np.ndarray, last: np.ndarray | None, a: float, rho: float, lam: float, z: float) -> np.ndarray:
    mean = g.mean(0)
    mt = mean if last is None else last
    ud = lam * mt + (1 - lam) * mean
    p = np.ones_like(ud) - ud * ud.sum() / (ud @ ud)
    p = np.sin(np.radians(a)) * p / np.linalg.norm(p) + np.cos(np.radians(a)) * ud / np.linalg.norm(ud)
    return rho * mt + (1 - rho) * mean + z * p / np.linalg.norm(p)


@pytest.mark.parametrize("angle", [90.0, 30.0, 180.0])
@pytest.mark.parametrize(("rho", "lam"), [(1.0, 0.9), (0.3, 0.0)])
def test_rop_by_its_formula(angle: float, rho: float, lam: float) -> None:
    attack = ROP(angle=angle, rho=rho, lam=lam, z=0.5, jitter=0.05, seed=4)
    before = None
    for g, origin in rounds(4):
        crafted = craft(attack, g, origin, [2, 4])
        last = None if before is None else (before - origin).numpy()
        for row, k in zip(crafted, [2, 4], strict=True):
            z = jittered(0.5, 0.05, 4, k)
            np.testing.assert_allclose(row.numpy(), slow_rop(g.numpy(), last, angle, rho, lam, z), rtol=1e-9)
        before = origin


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999))
def test_at_a_right_angle_the_first_push_is_orthogonal_to_the_mean(seed: int) -> None:
    (g, origin) = rounds(1, seed=seed)[0]
    mean = g.mean(0)
    push = craft(ROP(jitter=0.0), g, origin, [4])[0] - mean
    assert float(push.norm()) == pytest.approx(0.5)
    assert float(push @ mean) == pytest.approx(0, abs=1e-9)


def test_a_federation_that_stands_still_is_pushed_along_all_ones() -> None:
    crafted = craft(ROP(jitter=0.0), torch.zeros(3, 4), torch.zeros(4), [2])
    assert crafted.tolist() == [[0.25] * 4]
    assert torch.isfinite(turned(torch.ones(4), 90.0)).all()


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_restored_attack_goes_on_as_if_nothing_had_happened(name: str, stop: int) -> None:
    history = [(g.float(), origin.float()) for g, origin in rounds(8)]
    whole, interrupted = STATEFUL[name](), STATEFUL[name]()
    whole.setup(D)
    interrupted.setup(D)
    expected = [craft(whole, g, origin, [2, 4]) for g, origin in history]
    for g, origin in history[:stop]:
        craft(interrupted, g, origin, [2, 4])
    saved = {key: tensor.clone() for key, tensor in interrupted.state_dict().items()}
    restored = STATEFUL[name]()
    restored.setup(D)
    restored.load_state_dict(saved)
    for (g, origin), wanted in zip(history[stop:], expected[stop:], strict=True):
        assert torch.equal(craft(restored, g, origin, [2, 4]), wanted)


@pytest.mark.parametrize("name", STATEFUL)
def test_setup_beforehand_and_on_demand_are_the_same(name: str) -> None:
    early, late = STATEFUL[name](), STATEFUL[name]()
    early.setup(D)
    for g, origin in rounds(3):
        first, second = (craft(attack, g.float(), origin.float(), [2, 4]) for attack in (early, late))
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mimic(warm_up=0), "Mimic: warm_up must be at least 1, got 0"),
        (lambda: Mimic(form="x"), "Mimic: form must be one of elementwise, cited, got 'x'"),
        (lambda: Mimic(space="x"), "Mimic: space must be one of weights, updates, got 'x'"),
        (lambda: craft(Mimic(), torch.ones(3, 4), None, [2]), "Mimic needs origin"),
        (lambda: craft(Mimic(), torch.ones(2, 4), torch.ones(4), [0, 1]), "needs an honest client, got none among 2"),
        (lambda: ROP(lam=2), r"ROP: lam must lie in \[0, 1\], got 2"),
        (lambda: ROP(rho=-1), r"ROP: rho must lie in \[0, 1\], got -1"),
        (lambda: ROP(jitter=-1), "ROP: jitter must not be negative, got -1"),
        (lambda: craft(ROP(), torch.ones(3, 4), None, [2]), "ROP needs origin"),
    ],
)
def test_wrong_use_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("name", ["Mimic", "ROP"])
def test_vectors_of_another_length_are_refused(name: str) -> None:
    attack = STATEFUL[name]()
    attack.setup(3)
    with pytest.raises(UsageError, match=f"{name}: .* must have 3 coordinates as before, got 4"):
        craft(attack, torch.ones(3, 4), torch.ones(4), [2])
