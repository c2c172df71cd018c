import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsam.lora_aggregation import (
    PRESETS,
    FedAvgFactors,
    FreezeA,
    LoraRule,
    Stack,
    SVDBalanced,
    SVDExact,
    restart,
    weighted_mean,
)
from fedsam.lora_products import lora_pairs, truncated_product
from fedsam.robust_lora import RobustLora
from shared.errors import UsageError
from shared.federated.aggregation import StateRule, VectorAggregator
from shared.federated.fedavg import FedAvg

State = dict[str, Tensor]
TARGETS = {
    "encoder.0.lora_q": (12, 12),
    "encoder.0.lora_v": (12, 12),
    "decoder.lora_q": (6, 10),
    "wide.lora_v": (14, 5),
}


def state(rank: int, seed: int, targets: dict[str, tuple[int, int]] = TARGETS) -> State:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"head.weight": torch.randn(3, 4, generator=generator)}
    for target, (out, width) in targets.items():
        tensors[f"{target}.A"] = torch.randn(rank, width, generator=generator)
        tensors[f"{target}.B"] = torch.randn(out, rank, generator=generator)
    return tensors


def run(
    rule: LoraRule, uploads: list[State], weights: list[float] | None = None, ids: list[int] | None = None
) -> State:
    k = len(uploads)
    return rule(
        uploads,
        origin=uploads[0],
        weights=torch.tensor(weights or [1 / k] * k, dtype=torch.float64),
        client_ids=ids or list(range(k)),
        round=0,
    )


def product(tensors: State, target: str) -> Tensor:
    return tensors[f"{target}.B"].double() @ tensors[f"{target}.A"].double()


def mean_product(uploads: list[State], weights: list[float], target: str) -> Tensor:
    return sum((w * product(u, target) for w, u in zip(weights, uploads, strict=True)), torch.zeros(()))


SVD_RULES = [SVDExact, SVDBalanced]


@pytest.mark.parametrize("rule", SVD_RULES)
@pytest.mark.parametrize(("clients", "rank"), [(1, 3), (2, 2), (4, 3), (6, 5)])
def test_the_product_is_the_best_of_its_rank(rule: type[LoraRule], clients: int, rank: int) -> None:
    uploads = [state(rank, seed) for seed in range(clients)]
    weights = np.random.default_rng(1).dirichlet(np.ones(clients)).tolist()
    made = rule()
    combined = run(made, uploads, weights)
    kept = energy = 0.0
    for target in TARGETS:
        m = mean_product(uploads, weights, target).numpy()
        u, s, vh = np.linalg.svd(m)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        np.testing.assert_allclose(product(combined, target), best, atol=1e-5)
        kept, energy = kept + (s[:rank] ** 2).sum(), energy + (s**2).sum()
        assert combined[f"{target}.A"].shape == uploads[0][f"{target}.A"].shape
        assert combined[f"{target}.B"].shape == uploads[0][f"{target}.B"].shape
    assert float(made.diagnostics["kept_energy"]) == pytest.approx(kept / energy, rel=1e-6)
    expected = sum(w * u["head.weight"].double() for w, u in zip(weights, uploads, strict=True))
    torch.testing.assert_close(combined["head.weight"].double(), expected, rtol=0, atol=1e-6)


def test_b_is_orthonormal_and_a_carries_the_singular_values() -> None:
    uploads = [state(3, seed) for seed in range(4)]
    combined = run(SVDExact(), uploads)
    a, b = combined["encoder.0.lora_q.A"], combined["encoder.0.lora_q.B"]
    torch.testing.assert_close(b.T @ b, torch.eye(3), atol=1e-6, rtol=0)
    s = np.linalg.svd(mean_product(uploads, [0.25] * 4, "encoder.0.lora_q").numpy())[1][:3]
    np.testing.assert_allclose(a @ a.T, np.diag(s**2), atol=1e-4)
    assert (b.gather(0, b.abs().argmax(0, keepdim=True)) > 0).all()  # the convention of signs
    balanced = run(SVDBalanced(), uploads)
    a, b = balanced["encoder.0.lora_q.A"], balanced["encoder.0.lora_q.B"]
    np.testing.assert_allclose(b.T @ b, np.diag(s), atol=1e-5)
    np.testing.assert_allclose(a @ a.T, np.diag(s), atol=1e-5)


@pytest.mark.parametrize("rule", SVD_RULES)
def test_one_client_or_equal_clients_change_no_product(rule: type[LoraRule]) -> None:
    one = state(3, seed=5)
    for uploads, weights in (([one], [1.0]), ([one, dict(one), dict(one)], [0.2, 0.3, 0.5])):
        made = rule()
        combined = run(made, uploads, weights)
        for target in TARGETS:
            torch.testing.assert_close(product(combined, target), product(one, target), atol=2e-6, rtol=0)
        assert float(made.diagnostics["kept_energy"]) == pytest.approx(1, abs=1e-6)
    assert torch.equal(run(rule(), [one])["head.weight"], one["head.weight"])
    again = run(FedAvgFactors(), [one])
    assert all(torch.equal(again[name], one[name]) for name in one)


def test_clients_whose_ranks_fit_together_lose_nothing() -> None:
    uploads = [state(4, seed) for seed in range(2)]
    for k, upload in enumerate(uploads):  # each uses two of its four directions, so the sum has rank 4
        for target in TARGETS:
            upload[f"{target}.A"][2 * (1 - k) : 2 * (1 - k) + 2] = 0
    combined = run(SVDExact(), uploads, [0.3, 0.7])
    for target in TARGETS:
        exact = mean_product(uploads, [0.3, 0.7], target)
        torch.testing.assert_close(product(combined, target), exact, atol=2e-6, rtol=0)


def test_two_clients_in_orthogonal_directions() -> None:
    uploads = [{"x.lora_q.A": torch.eye(2)[k : k + 1], "x.lora_q.B": torch.eye(2)[:, k : k + 1]} for k in range(2)]
    torch.testing.assert_close(product(run(FedAvgFactors(), uploads), "x.lora_q"), torch.full((2, 2), 0.25).double())
    torch.testing.assert_close(product(run(Stack(), uploads), "x.lora_q"), torch.eye(2).double() / 2)
    exact = SVDExact()
    assert product(run(exact, uploads), "x.lora_q").square().sum() == pytest.approx(0.25)
    assert float(exact.diagnostics["kept_energy"]) == pytest.approx(0.5)
    factors = FedAvgFactors()
    run(factors, uploads)
    assert float(factors.diagnostics["product_error"]) == pytest.approx((4 * 0.25**2 / 0.5) ** 0.5)


def test_a_flat_spectrum_is_cut_exactly() -> None:
    """Six unrelated clients of rank 32: where few power iterations of a randomised SVD err by far more than 1e-5."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(1, 192, 256, generator=generator), torch.randn(1, 256, 192, generator=generator)
    u, s, vh, energy = truncated_product(b, a, 32)
    m = (b.double() @ a.double())[0]
    full = torch.linalg.svd(m)
    best = full.U[:, :32] * full.S[:32] @ full.Vh[:32]
    torch.testing.assert_close((u * s[:, None] @ vh)[0], best, atol=1e-7, rtol=0)
    torch.testing.assert_close(s[0], full.S[:32])
    a, b = torch.randn(1, 192, 768, generator=generator), torch.randn(1, 768, 192, generator=generator)
    _, s, _, energy = truncated_product(b, a, 32)
    assert float(s.square().sum() / energy) == pytest.approx(0.38, abs=0.01)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_any_shape_gives_orthonormal_leading_triples(k: int, rank: int, out: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(2, out, k * rank, generator=generator)
    a = torch.randn(2, k * rank, width, generator=generator)
    u, s, vh, _ = truncated_product(b, a, rank)
    assert (u.shape, s.shape, vh.shape) == ((2, out, rank), (2, rank), (2, rank, width))
    full = torch.linalg.svd(b.double() @ a.double()).S
    torch.testing.assert_close(s[:, : full.shape[1]], full[:, :rank], atol=1e-5, rtol=1e-6)
    if rank <= out:
        torch.testing.assert_close(u.mT @ u, torch.eye(rank, dtype=torch.float64).expand(2, -1, -1), atol=1e-9, rtol=0)


def test_factors_that_never_moved_can_still_learn() -> None:
    """B = 0 on all clients: the product is 0, and B must not become 0 together with A."""
    uploads = [state(3, seed) for seed in range(3)]
    for upload in uploads:
        for name in upload:
            if name.endswith(".B"):
                upload[name].zero_()
    made = SVDExact()
    combined = run(made, uploads)
    for target in TARGETS:
        assert product(combined, target).abs().max() == 0
        b = combined[f"{target}.B"]
        torch.testing.assert_close(b.T @ b, torch.eye(3))
    assert float(made.diagnostics["kept_energy"]) == 1


@pytest.mark.parametrize("rule", [SVDExact, SVDBalanced, FedAvgFactors, Stack])
def test_the_order_of_clients_changes_no_bit(rule: type[LoraRule]) -> None:
    uploads, weights, ids = [state(2, seed) for seed in range(3)], [0.5, 0.2, 0.3], [4, 7, 9]
    first = run(rule(), uploads, weights, ids)
    for order in itertools.permutations(range(3)):
        other = run(rule(), [uploads[i] for i in order], [weights[i] for i in order], [ids[i] for i in order])
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_inputs_are_not_modified() -> None:
    uploads = [state(2, seed) for seed in range(3)]
    for upload in uploads[1:]:
        upload.update({name: uploads[0][name].clone() for name in uploads[0] if name.endswith(".A")})
    before = [{name: tensor.clone() for name, tensor in upload.items()} for upload in uploads]
    for rule in (SVDExact(), SVDBalanced(), FedAvgFactors(), FreezeA(), Stack(), RobustLora(FedAvg())):
        for tensor in run(rule, uploads).values():
            tensor.fill_(7)
        assert all(torch.equal(u[name], v[name]) for u, v in zip(uploads, before, strict=True) for name in u)


def test_freeze_a_averages_b_alone() -> None:
    uploads = [state(2, seed) for seed in range(3)]
    with pytest.raises(UsageError, match="FreezeA needs clients that leave the LoRA factors A as they are"):
        run(FreezeA(), uploads)
    for upload in uploads[1:]:
        upload.update({name: uploads[0][name].clone() for name in uploads[0] if name.endswith(".A")})
    weights = [0.5, 0.25, 0.25]
    combined = run(FreezeA(), uploads, weights)
    for target in TARGETS:
        assert torch.equal(combined[f"{target}.A"], uploads[0][f"{target}.A"])
        exact = mean_product(uploads, weights, target)
        torch.testing.assert_close(product(combined, target), exact, atol=2e-6, rtol=0)


def test_stacking_keeps_everything_and_restarts_at_the_old_rank() -> None:
    uploads, weights = [state(2, seed) for seed in range(3)], [0.5, 0.25, 0.25]
    combined = run(Stack(), uploads, weights)
    increments, fresh = restart(combined, rank=2, generator=torch.Generator().manual_seed(3))
    _, again = restart(combined, rank=2, generator=torch.Generator().manual_seed(3))
    for target, (out, width) in TARGETS.items():
        assert combined[f"{target}.A"].shape == (6, width)
        assert combined[f"{target}.B"].shape == (out, 6)
        exact = mean_product(uploads, weights, target)
        torch.testing.assert_close(increments[target].double(), exact, atol=1e-5, rtol=0)
        assert fresh[f"{target}.A"].shape == uploads[0][f"{target}.A"].shape
        assert 0 < fresh[f"{target}.A"].abs().max() <= width**-0.5
        assert fresh[f"{target}.B"].shape == (out, 2)
        assert not fresh[f"{target}.B"].any()
        assert torch.equal(fresh[f"{target}.A"], again[f"{target}.A"])


def test_parallel_loras_are_combined_each_by_itself() -> None:
    targets = {f"x.lora_q.{i}": (8, 8) for i in range(2)}
    uploads = [state(2, seed, targets) for seed in range(3)]
    combined = run(SVDExact(), uploads)
    for target in targets:
        alone = [{name: u[name] for name in u if name.startswith(target)} for u in uploads]
        assert torch.equal(run(SVDExact(), alone)[f"{target}.A"], combined[f"{target}.A"])


def test_names_tell_the_pairs() -> None:
    names = [
        "a.lora_q.A",
        "a.lora_q.B",
        "a.lora_v.1.B",
        "a.lora_v.1.A",
        "a.lora_scale",
        "explora_q.C",
        "lora_q.B",
        "lora_q.A",
    ]
    assert [pair.target for pair in lora_pairs(names)] == ["a.lora_q", "a.lora_v.1", "lora_q"]
    with pytest.raises(UsageError, match=r"LoRA factors must come in pairs, got a.lora_q.A without a.lora_q.B"):
        lora_pairs(["a.lora_q.A"])
    assert SVDExact().rebased(names) == [n for t in ("a.lora_q", "a.lora_v.1", "lora_q") for n in (f"{t}.A", f"{t}.B")]
    assert FedAvgFactors().rebased(names) == FreezeA().rebased(names) == []


def test_weights_come_from_the_run_a_list_or_a_preset() -> None:
    assert all(sum(weights) == pytest.approx(1) for weights in PRESETS.values())
    uploads = [state(2, seed) for seed in range(3)]
    heads = [u["head.weight"] for u in uploads]
    expected = weighted_mean(heads, torch.tensor([0.55, 0.32, 0.13], dtype=torch.float64))
    ixi = SVDExact("ixi")
    ixi.check(3)
    torch.testing.assert_close(run(ixi, uploads)["head.weight"], expected)
    counts = run(FedAvgFactors([249, 145, 59]), uploads)["head.weight"]
    by_hand = (249 * heads[0] + 145 * heads[1] + 59 * heads[2]) / 453
    torch.testing.assert_close(counts, by_hand)
    # A client that failed is left out, and the others' weights are scaled.
    rest = run(FedAvgFactors([2, 1, 1]), uploads[:2], ids=[0, 2])["head.weight"]
    torch.testing.assert_close(rest, 2 / 3 * heads[0] + 1 / 3 * heads[1])
    torch.testing.assert_close(
        run(FedAvgFactors(), uploads, [2.0, 1.0, 1.0])["head.weight"], heads[0] / 2 + heads[1] / 4 + heads[2] / 4
    )


def test_what_makes_no_sense_is_refused() -> None:
    uploads = [state(2, seed) for seed in range(2)]
    with pytest.raises(
        UsageError, match=r"client_weights must be a list or one of \['kits', 'ixi', 'prostate'\], got x"
    ):
        SVDExact("x")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"client_weights must be finite, not negative and not all zero, got \[-1"):
        SVDExact([-1.0, 2.0])
    with pytest.raises(UsageError, match="client_weights must have one weight per client, got 6 for 3"):
        SVDExact("kits").check(3)
    with pytest.raises(UsageError, match="got 1 and client 1"):
        run(SVDExact([1.0]), uploads)
    with pytest.raises(UsageError, match=r"weights must be finite, not negative and not all zero, got \[0.0, 0.0\]"):
        run(SVDExact(), uploads, [0.0, 0.0])
    with pytest.raises(UsageError, match=r"weights must be one per client, got 3 for 2"):
        run(SVDExact(), uploads, [0.2, 0.3, 0.5])
    with pytest.raises(UsageError, match=r"got 2 of clients \[1, 1\]"):
        run(SVDExact(), uploads, ids=[1, 1])
    with pytest.raises(UsageError, match="space must be products or b, got a"):
        RobustLora(FedAvg(), space="a")  # type: ignore[arg-type]


class Median(VectorAggregator):
    min_clients = 2

    def combine(self, updates: Tensor, **rest: object) -> Tensor:  # type: ignore[override]
        self.diagnostics = {"spread": updates.std()}
        return updates.median(dim=0).values


def test_a_robust_rule_works_on_products_whatever_the_bases() -> None:
    honest = [state(2, 1) for _ in range(4)]
    for k, upload in enumerate(honest[1:]):  # the same products in other bases
        for target in TARGETS:
            turn = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(k))).Q
            upload[f"{target}.A"] = turn.T @ upload[f"{target}.A"]
            upload[f"{target}.B"] = upload[f"{target}.B"] @ turn
    hostile = {name: -50 * tensor for name, tensor in state(2, 9).items()}
    rule = RobustLora(Median())
    assert isinstance(rule, StateRule)
    rule.setup(honest[0])
    rule.check(5)
    combined = run(rule, [*honest, hostile])
    for target in TARGETS:
        torch.testing.assert_close(product(combined, target), product(honest[0], target), atol=1e-4, rtol=0)
    torch.testing.assert_close(combined["head.weight"], honest[0]["head.weight"])
    assert set(rule.diagnostics) == {"spread", "kept_energy"}
    with pytest.raises(UsageError, match="at least 2"):
        rule.check(1)


def test_a_robust_rule_on_b_alone() -> None:
    uploads = [state(2, seed) for seed in range(3)]
    with pytest.raises(UsageError, match="RobustLora: space b needs clients that leave"):
        run(RobustLora(Median(), space="b"), uploads)
    for upload in uploads[1:]:
        upload.update({name: uploads[0][name].clone() for name in uploads[0] if name.endswith(".A")})
    rule = RobustLora(Median(), space="b")
    combined = run(rule, uploads)
    for name in uploads[0]:
        expected = torch.stack([u[name] for u in uploads]).median(dim=0).values
        torch.testing.assert_close(combined[name], expected, atol=1e-6, rtol=0)
    assert rule.rebased(uploads[0]) == []


def test_averaging_lifted_to_products_is_svd_exact() -> None:
    uploads, weights = [state(2, seed) for seed in range(3)], [0.5, 0.2, 0.3]
    lifted, exact = run(RobustLora(FedAvg()), uploads, weights), run(SVDExact(), uploads, weights)
    for target in TARGETS:
        torch.testing.assert_close(product(lifted, target), product(exact, target), atol=2e-5, rtol=0)
