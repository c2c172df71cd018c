"""The losses against plain references written from their formulas, and at the points known by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from finelip import losses
from finelip.finelip import FineLIP
from finelip.losses import (
    EncodedBatch,
    FilipLoss,
    GlobalInfoNCE,
    LocalInfoNCE,
    LongClipLoss,
    Loss,
    SparcLoss,
    TripletHinge,
)
from finelip.losses.info_nce import info_nce
from finelip.losses.long_clip import main_components
from finelip.losses.sparc import grouped_embeddings, within_captions
from finelip.losses.triplet import margins_met, triplet_hinge
from finelip.tokenizer import Tokens
from shared.errors import UsageError

Small = Callable[..., FineLIP]
Captions = Callable[[int], Tokens]


# ---------------------------------------------------------------------- triplet


def plain_triplet(r: Tensor, ids: list[int], margin: float, hardest: bool) -> Tensor:
    n = len(ids)
    rows = [[F.relu(margin + r[i, j] - r[i, i]) for j in range(n) if ids[i] != ids[j]] for i in range(n)]
    columns = [[F.relu(margin + r[i, j] - r[j, j]) for i in range(n) if ids[i] != ids[j]] for j in range(n)]
    terms = [max(group) for group in rows + columns if group] if hardest else [x for g in rows + columns for x in g]
    return torch.stack(terms).sum() if terms else r.sum() * 0


@pytest.mark.parametrize("hardest", [False, True])
@given(ids=st.lists(st.integers(0, 4), min_size=1, max_size=7), seed=st.integers(0, 99))
def test_the_triplet_loss_is_its_formula(hardest: bool, ids: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    r = torch.randn(len(ids), len(ids), generator=generator, dtype=torch.float64).requires_grad_()
    ours = triplet_hinge(r, torch.tensor(ids), 0.3, hardest)
    theirs = plain_triplet(r, ids, 0.3, hardest)
    torch.testing.assert_close(ours, theirs)
    for one, two in zip(torch.autograd.grad(ours, r), torch.autograd.grad(theirs, r), strict=True):
        torch.testing.assert_close(one, two)


def test_the_triplet_loss_by_hand() -> None:
    b, ids = 5, torch.arange(5)
    equal = torch.full((b, b), 0.7)
    assert triplet_hinge(equal, ids, 0.2).item() == pytest.approx(2 * b * (b - 1) * 0.2)
    assert triplet_hinge(equal, ids, 0.2, hardest=True).item() == pytest.approx(2 * b * 0.2)
    assert triplet_hinge(torch.tensor([[0.5, 0.6], [0.4, 0.5]]), ids[:2], 0.2).item() == pytest.approx(0.8)
    good = (1.8 * torch.ones(b, b) + 0.2 * torch.eye(b)).double().requires_grad_()
    loss = triplet_hinge(good * 0.999, ids, 0.19)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, good)[0].any()
    r = torch.randn(b, b)
    assert triplet_hinge(r, torch.zeros(b)).item() == 0
    torch.testing.assert_close(triplet_hinge(r + 3, ids), triplet_hinge(r, ids))


def test_margins_met() -> None:
    r = torch.tensor([[1.0, 0.5, 0.9], [0.1, 1.0, 0.2], [0.0, 0.0, 1.0]])
    assert margins_met(r, torch.arange(3)).item() == pytest.approx(5 / 6)
    assert margins_met(r, torch.zeros(3)).item() == 1


# ---------------------------------------------------------------------- contrastive


def plain_info_nce(images: Tensor, texts: Tensor, scale: float, smoothing: float) -> Tensor:
    n = len(images)
    target = torch.full((n, n), smoothing / n, dtype=images.dtype) + (1 - smoothing) * torch.eye(n, dtype=images.dtype)
    rows = -(target * torch.log_softmax(math.exp(scale) * images, 1)).sum() / n
    columns = -(target * torch.log_softmax(math.exp(scale) * texts, 0)).sum() / n
    return (rows + columns) / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_info_nce_is_its_formula(smoothing: float) -> None:
    images, texts = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    scale = torch.tensor(1.3, dtype=torch.float64)
    torch.testing.assert_close(info_nce(images, texts, scale, smoothing), plain_info_nce(images, texts, 1.3, smoothing))


def test_main_components() -> None:
    x = torch.randn(6, 10, dtype=torch.float64)
    torch.testing.assert_close(main_components(x, 5), x)  # rank of the centred batch
    torch.testing.assert_close(main_components(x, 32), x)
    torch.testing.assert_close(main_components(x, 0), x.mean(0).expand(6, -1))
    values, vectors = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)))
    top = vectors[:, values.argsort(descending=True)[:2]]
    torch.testing.assert_close(main_components(x, 2), x.mean(0) + (x - x.mean(0)) @ top @ top.T)
    x.requires_grad_()
    assert torch.autograd.grad(main_components(x, 3).square().sum(), x)[0].isfinite().all()
    assert main_components(x.bfloat16(), 3).dtype == torch.float32


# ---------------------------------------------------------------------- FILIP, SPARC


def encoded(count: int, model: FineLIP, tokens: Tokens, seed: int = 0) -> EncodedBatch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 32, 32, generator=generator).to(model.text_projection.dtype)
    return EncodedBatch(
        model.image_tokens(images),
        model.text_tokens(tokens.ids),
        tokens.lengths,
        torch.arange(count),
        model.text_tokens(tokens.ids.flip(0)),
        tokens.lengths.flip(0),
    )


def test_filip_is_its_formula(small: Small, captions: Captions) -> None:
    model = small().double()
    batch = encoded(4, model, captions(4))
    of_images, of_texts = torch.zeros(4, 4).double(), torch.zeros(4, 4).double()
    for i in range(4):
        for j in range(4):
            v = F.normalize(batch.image_tokens[i, 1:], dim=-1)
            t = F.normalize(batch.text_tokens[j, : batch.lengths[j] - 1], dim=-1)
            of_images[i, j] = (v @ t.T).max(1).values.mean()
            of_texts[i, j] = (t @ v.T).max(1).values.mean()
    expected = plain_info_nce(of_images, of_texts, model.logit_scale.item(), 0.0)
    torch.testing.assert_close(FilipLoss()(model, batch), expected, rtol=1e-6, atol=1e-6)


def plain_sparc(v: Tensor, t: Tensor, scale: float) -> Tensor:
    """One caption: v (P, D), t (W, D)."""
    groups = []
    for word in t:
        s = torch.stack([word @ patch for patch in v])
        s = (s - s.min()) / (s.max() - s.min())
        s = torch.stack([x if x >= 1 / len(v) else x * 0 for x in s])
        groups.append(sum(w / s.sum() * patch for w, patch in zip(s, v, strict=True)))
    c, t = F.normalize(torch.stack(groups), dim=-1), F.normalize(t, dim=-1)  # type: ignore[arg-type]
    logits = math.exp(scale) * c @ t.T
    target = torch.arange(len(t))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def test_sparc_is_its_formula() -> None:
    v, t = torch.randn(3, 6, 5), torch.randn(3, 4, 5)
    lengths = [4, 1, 3]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    found = within_captions(grouped_embeddings(v, t), t, mask, torch.tensor(0.7))
    expected = torch.stack([plain_sparc(v[i], t[i, :n], 0.7) for i, n in enumerate(lengths)]).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------- all of them on a model

LOSSES: dict[str, Callable[[], Loss]] = {
    "triplet": TripletHinge,
    "triplet_hardest": lambda: TripletHinge(hardest=True),
    "baseline": GlobalInfoNCE,
    "info_nce_local": LocalInfoNCE,
    "long_clip": lambda: LongClipLoss(components=3),
    "filip": FilipLoss,
    "sparc": SparcLoss,
    "laps": TripletHinge,
    "triplet_raw": TripletHinge,
    "triplet_image": TripletHinge,
}


def options_of(name: str) -> dict[str, Any]:
    """LAPS is the triplet loss on scores whose image sets are selected by the text; two others keep all text tokens."""
    refinement = {"laps": "select_aggregate_image", "triplet_raw": "none", "triplet_image": "image"}.get(name, "both")
    return {"refinement": refinement}


def test_no_loss_is_forgotten() -> None:
    kinds = {kind for name in losses.__all__ if issubclass(kind := getattr(losses, name), Loss)}
    assert kinds - {Loss} == {type(make()) for make in LOSSES.values()}


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_the_model(name: str, small: Small, captions: Captions) -> None:
    model = small(**options_of(name)).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    loss, values, tokens = LOSSES[name](), [], captions(6)
    for _ in range(6):
        value = loss(model, encoded(6, model, tokens))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert all(math.isfinite(v) for v in values)
    assert values[-1] < values[0]


def test_a_loss_without_its_short_captions_says_so(small: Small, captions: Captions) -> None:
    model, tokens = small(), captions(3)
    whole = encoded(3, model, tokens)
    batch = EncodedBatch(whole.image_tokens, whole.text_tokens, whole.lengths, whole.pair_id)
    with pytest.raises(UsageError, match="needs short captions, and the data have none"):
        LongClipLoss()(model, batch)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TripletHinge(margin=0), "margin must be positive, got 0"),
        (lambda: GlobalInfoNCE(smoothing=1), r"smoothing must lie in \[0, 1\), got 1"),
        (lambda: LocalInfoNCE(smoothing=-0.1), "smoothing must lie in"),
        (lambda: LongClipLoss(components=0), "components must be at least 1, got 0"),
        (lambda: SparcLoss(local_weight=-1), "SPARC weights must not be negative"),
        (lambda: main_components(torch.zeros(2, 2), -1), "components must not be negative, got -1"),
    ],
)
def test_wrong_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


# ---------------------------------------------------------------------- several processes


def value_and_gradients(model: FineLIP, loss: Loss, tokens: Tokens, rows: slice) -> dict[str, Tensor]:
    """Of one process's share of six pairs, two of which belong to one image."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(6, 3, 32, 32, generator=generator, dtype=torch.float64)
    ids, lengths = tokens.ids[rows], tokens.lengths[rows]
    ids = ids[:, : int(lengths.max())]  # every process cuts its own texts
    flipped, short_lengths = tokens.ids.flip(0)[rows], tokens.lengths.flip(0)[rows]
    batch = EncodedBatch(
        model.image_tokens(images[rows]),
        model.text_tokens(ids),
        lengths,
        torch.tensor([0, 1, 2, 3, 1, 5])[rows],
        model.text_tokens(flipped),
        short_lengths,
    )
    value = loss(model, batch)
    value.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"value": value.detach(), **found}  # type: ignore[dict-item]


def double_model(name: str, config: dict[str, Any]) -> FineLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FineLIP(config, k_image=3, k_text=3, **options_of(name)).double()


def share(rank: int, folder: str, config: dict[str, Any], tokens: Tokens) -> None:
    """Every loss on this process's half, gradients averaged as DistributedDataParallel does."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results: dict[str, Tensor] = {}
    for name, make in LOSSES.items():
        found = value_and_gradients(double_model(name, config), make(), tokens, slice(3 * rank, 3 * rank + 3))
        for key, tensor in found.items():
            dist.all_reduce(tensor)
            results[f"{name} {key}"] = tensor / 2
    if rank == 0:
        torch.save(results, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let spawned processes, which get this one's path, import this file under the name it has here."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


@pytest.mark.usefixtures("importable")
def test_two_processes_are_one(small: Small, captions: Captions, tmp_path: Path) -> None:
    config, tokens = small().config, captions(6)
    torch.multiprocessing.spawn(share, (str(tmp_path), config, tokens), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    wanted = {
        f"{name} {key}": tensor
        for name in LOSSES
        for key, tensor in value_and_gradients(double_model(name, config), LOSSES[name](), tokens, slice(None)).items()
    }
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-5, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}")
        assert tensor.abs().max() > 0, key


def test_four_micro_batches_are_not_one_batch(small: Small, captions: Captions) -> None:
    """Negatives come from the micro-batch alone, so accumulation has fewer of them: a documented difference."""
    model, tokens = small(), captions(8)
    with torch.no_grad():
        batch = encoded(8, model, tokens)
        whole = TripletHinge()(model, batch)
        parts = [
            TripletHinge()(
                model,
                EncodedBatch(batch.image_tokens[i:j], batch.text_tokens[i:j], batch.lengths[i:j], batch.pair_id[i:j]),
            )
            for i, j in ((0, 2), (2, 4), (4, 6), (6, 8))
        ]
    assert sum(parts) < whole / 2
