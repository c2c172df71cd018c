"""Training as a run: updates and their tails, rates, resume, guard, retrieval, and that it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from finelip.checkpoints.write import write_clip
from finelip.finelip import FineLIP
from finelip.learning_rates import reference_factor, update_factor
from finelip.losses import (
    FilipLoss,
    GlobalInfoNCE,
    LocalInfoNCE,
    LongClipLoss,
    SparcLoss,
    TripletHinge,
)
from finelip.losses.triplet import triplet_hinge
from finelip.module import FineLIPModule
from finelip.ragged import joined
from finelip.tokenizer import Tokens
from shared.errors import RunError, UsageError
from shared.metrics.retrieval import positions, recall_at

pytestmark = pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*")

Small = Callable[..., FineLIP]
Captions = Callable[[int], Tokens]
Batch = dict[str, Tensor]


@pytest.fixture
def pairs(captions: Captions) -> Callable[[int], list[Batch]]:
    """``pairs(count)``: coloured noise with a caption each."""

    def make(count: int) -> list[Batch]:
        tokens = captions(count)
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(4))
        return [
            {
                "image": images[i],
                "ids": tokens.ids[i],
                "lengths": tokens.lengths[i],
                "pair_id": torch.tensor(i),
                "short_ids": tokens.ids[i],
            }
            for i in range(count)
        ]

    return make


@pytest.fixture
def module(small: Small) -> Callable[..., FineLIPModule]:
    def make(**options: Any) -> FineLIPModule:
        defaults = {"k_image": 3, "k_text": 3, "lr": 1e-3, "lr_refinement": 1e-2, "warmup_steps": 0, "accumulate": 1}
        return FineLIPModule(small().config, **(defaults | {"ramp_loss": False} | options))

    return make


class Updates(Callback):
    """The rates and weights at every update."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.weights: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])
        self.weights.append(pl_module.model.visual.proj.detach().clone())


def loader(data: list[Batch], size: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=size)  # type: ignore[arg-type]


def test_an_update_is_made_of_its_micro_batches_and_the_tail_counts_truly(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    """Ten pairs in micro-batches of two, two of which make an update: three updates, the last of a single one."""
    trained, plain = (module(accumulate=2, ramp_loss=True, seed=1) for _ in range(2))
    data = loader(pairs(10), 2)
    make_trainer(1).fit(trained, data)
    optimizer = torch.optim.AdamW(
        [
            {"params": plain.model.backbone_parameters(), "lr": 1e-3},
            {"params": plain.model.refinement_parameters(), "lr": 1e-2},
        ],
        weight_decay=1e-2,
    )
    batches = list(data)
    plain.train()
    for update, group in enumerate(([0, 1], [2, 3], [4])):
        for rates, base in zip(optimizer.param_groups, (1e-3, 1e-2), strict=True):
            rates["lr"] = base * update_factor(update, 3, 0)
        total = sum((i / 5 * plain.total_loss(batches[i]) / len(group) for i in group), torch.zeros(()))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    for (name, ours), theirs in zip(trained.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_rates_on_both_clocks(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    for reference in (False, True):
        seen, epochs = Updates(), 3
        model = module(accumulate=2, warmup_steps=2, reference_schedule=reference)
        trainer = make_trainer(epochs)
        trainer.callbacks.append(seen)  # type: ignore[attr-defined]
        trainer.fit(model, loader(pairs(10), 2))
        per_epoch = 2 if reference else 3  # five micro-batches: the authors throw the last one away
        wanted = [
            reference_factor(u, 2, 5, epochs, 2) if reference else update_factor(u, 9, 2)
            for u in range(per_epoch * epochs)
        ]
        assert [rates[0] for rates in seen.rates] == pytest.approx([1e-3 * f for f in wanted])
        assert [rates[1] for rates in seen.rates] == pytest.approx([1e-2 * f for f in wanted])


def test_what_is_trained(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    model = module()
    before = {n: p.detach().clone() for n, p in model.model.named_parameters()}
    make_trainer(2).fit(model, loader(pairs(6), 3))
    same = {n for n, p in model.model.named_parameters() if torch.equal(p, before[n])}
    assert same == {"positional_embedding", "logit_scale"}
    moved = model.model.positional_embedding_res - before["positional_embedding_res"]
    assert moved[20:30].abs().min() > 0


def test_one_epoch_and_one_more_are_two(
    module: Callable[..., FineLIPModule],
    pairs: Callable[[int], list[Batch]],
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
) -> None:
    options = {"accumulate": 2, "epochs": 2, "warmup_steps": 2, "ramp_loss": True}
    whole, first, second = (module(**options) for _ in range(3))
    make_trainer(2).fit(whole, loader(pairs(10), 2))
    make_trainer(1, "half").fit(first, loader(pairs(10), 2))
    (checkpoint,) = (tmp_path / "half/checkpoints").glob("*.ckpt")
    make_trainer(2, "half").fit(second, loader(pairs(10), 2), ckpt_path=checkpoint)
    for one, two in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)
    other = FineLIPModule("clip_tiny", refinement="none", epochs=2)
    with pytest.raises(UsageError, match="ckpt_path must be of the same backbone"):
        other.on_load_checkpoint(torch.load(checkpoint, weights_only=True))
    with pytest.raises(UsageError, match="must be a checkpoint of finelip fit"):
        other.on_load_checkpoint({})


def test_a_loss_that_is_no_number(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    data = pairs(6)
    data[4]["image"] = torch.full((3, 32, 32), torch.nan)
    with pytest.raises(RunError, match="the loss was not finite in 1 batches in a row, the last of them batch 2"):
        make_trainer(1).fit(module(), loader(data, 2))
    patient = module(max_non_finite=3)
    trainer = make_trainer(1)
    trainer.fit(patient, loader(data, 2))
    assert trainer.callback_metrics["train/skipped"] == 1
    assert all(p.isfinite().all() for p in patient.parameters())
    assert patient.describe()["skipped_batches"] == 1


def test_retrieval_on_validation_and_test(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    """Streamed from batches of unequal length equals the matrix of all pairs; two captions belong to one image."""
    model, data = module(refinement="image"), pairs(7)
    data[5]["pair_id"] = torch.tensor(2)
    trimmed = [d | {"ids": d["ids"][: int(d["lengths"])]} for d in data]  # every batch is as long as its text
    trainer = make_trainer(1)
    (found,) = trainer.validate(model, loader(trimmed, 1), verbose=False)
    (tested,) = trainer.test(model, loader(data, 3), verbose=False)
    images = [0, 1, 2, 3, 4, 6]
    owner = torch.tensor([0, 1, 2, 3, 4, 2, 5])
    with torch.no_grad():
        stacked = {key: torch.stack([d[key] for d in data]) for key in ("image", "ids", "lengths")}
        model.eval()
        image = model.model.encode_image(stacked["image"][images])
        text = model.model.encode_text(stacked["ids"], stacked["lengths"])
        coarse = image.vector @ text.vector.T
        fused = 0.8 * coarse + 0.2 * model.model.local_scores(image.tokens, text.tokens, text.mask)
    for kind, scores in (("global", coarse), ("fused", fused)):
        wanted = positions(scores, owner)
        for k in (1, 5):
            assert found[f"val/{kind}/i2t_r{k}"] == pytest.approx(recall_at(wanted.image_to_text, k))
            assert found[f"val/{kind}/t2i_r{k}"] == pytest.approx(recall_at(wanted.text_to_image, k))
            assert tested[f"test/{kind}/t2i_r{k}"] == pytest.approx(recall_at(wanted.text_to_image, k))
        assert found[f"val/{kind}/t2i_mean_rank"] == pytest.approx(wanted.text_to_image.double().mean().item() + 1)


def test_sets_of_several_batches_are_joined() -> None:
    sets, masks = joined(
        [torch.ones(2, 3, 4), 2 * torch.ones(1, 5, 4)],
        [torch.tensor([[True, False, True], [True] * 3]), torch.ones(1, 5, dtype=torch.bool)],
    )
    assert sets.shape == (3, 5, 4)
    assert masks.tolist() == [[False, False, True, False, True], [False, False, True, True, True], [True] * 5]
    assert (sets[:2, :2] == 0).all()


def test_it_learns_sixteen_pairs(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    """All margins are met and every caption finds its picture by the local score, within a few hundred steps."""
    model, data = module(lr=2e-3, warmup_steps=20, alpha=0.0), pairs(16)
    assert len({tuple(d["ids"].tolist()) for d in data}) == 16
    trainer = make_trainer(200)
    trainer.fit(model, loader(data, 16))
    assert trainer.callback_metrics["train/loss"] == 0
    (found,) = trainer.validate(model, loader(data, 16), verbose=False)
    assert found["val/fused/i2t_r1"] == found["val/fused/t2i_r1"] == 1
    batch = next(iter(loader(data, 16)))
    with torch.no_grad():
        model.eval()
        image, text = model.model.encode_image(batch["image"]), model.model.encode_text(batch["ids"])
        scores = model.model.local_scores(image.tokens, text.tokens, text.mask)
    assert triplet_hinge(scores, batch["pair_id"]) == 0


def test_short_captions_and_a_global_loss(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    long_clip = module(loss=LongClipLoss(components=2))
    make_trainer(1).fit(long_clip, loader(pairs(6), 3))
    both = module(loss=TripletHinge(), global_loss_weight=0.5)
    batch = next(iter(loader(pairs(6), 6)))
    alone = both.loss(both.model, both.encode(batch))
    extra = F.relu(both.total_loss(batch) - alone)
    torch.testing.assert_close(extra, 0.5 * both.global_loss(both.model, both.encode(batch)), rtol=1e-4, atol=1e-4)
    assert both.describe()["loss"] == "TripletHinge"


def test_initial_weights(
    module: Callable[..., FineLIPModule], small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = small(seed=9)
    write_clip(source, tmp_path / "f.safetensors")
    model = module(init=str(tmp_path / "f.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), source.parameters(), strict=True))
    assert "tensors match" in capsys.readouterr().out
    told = model.describe()
    assert told["pretrained"] == "file"
    assert len(told["weights_sha256"]) == 64
    first, second = module(seed=3), module(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# ---------------------------------------------------------------------- several processes

VARIANTS: dict[str, Callable[[], dict[str, Any]]] = {
    "triplet": dict,
    "raw": lambda: {"refinement": "none"},
    "laps": lambda: {"refinement": "select_aggregate_image"},
    "both losses": lambda: {"global_loss_weight": 0.5},
    "contrastive": lambda: {"loss": GlobalInfoNCE()},
    "local_info_nce": lambda: {"loss": LocalInfoNCE()},
    "long_clip": lambda: {"loss": LongClipLoss(components=2)},
    "filip": lambda: {"loss": FilipLoss()},
    "sparc": lambda: {"loss": SparcLoss()},
}


class TotalLoss(nn.Module):
    """What DistributedDataParallel wraps."""

    def __init__(self, module: FineLIPModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> Tensor:
        return self.module.total_loss(batch)


def stacked(data: list[Batch]) -> Batch:
    return {name: torch.stack([each[name] for each in data]) for name in data[0]}


def two_steps(config: dict[str, Any], data: list[Batch], distributed: bool) -> dict[str, Tensor]:
    """Losses of two batches of six, and the weights after them, for every variant; float64, plain descent."""
    found: dict[str, Tensor] = {}
    for name, make in VARIANTS.items():
        module = FineLIPModule(config, **({"k_image": 3, "k_text": 3, "seed": 1} | make())).double()
        total: nn.Module = TotalLoss(module)
        if distributed:
            total = nn.parallel.DistributedDataParallel(total)  # which ends where a parameter gets no gradient
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
        for step in range(2):
            batch = stacked(data[6 * step : 6 * step + 6])
            if distributed:
                rank = torch.distributed.get_rank()
                batch = {key: value[3 * rank : 3 * rank + 3] for key, value in batch.items()}
            loss = total(batch | {"image": batch["image"].double()})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found[f"{name} loss {step}"] = loss.detach()
        found |= {f"{name} {key}": p.detach() for key, p in module.model.named_parameters()}
    return found


def descend(rank: int, folder: str, config: dict[str, Any], data: list[Batch]) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(two_steps(config, data, distributed=True), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_as_one(
    small: Small, pairs: Callable[[int], list[Batch]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process cuts its own texts, which are of other lengths, and no parameter waits for a gradient."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    data = pairs(12)
    for step in range(2):
        longest = [max(int(d["lengths"]) for d in data[first : first + 3]) for first in (6 * step, 6 * step + 3)]
        assert longest[0] != longest[1]
    config = small().config
    torch.multiprocessing.spawn(descend, (str(tmp_path), config, data), nprocs=2)
    wanted = two_steps(config, data, distributed=False)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            torch.testing.assert_close(
                found[key], tensor, rtol=1e-6, atol=1e-7, msg=lambda text, key=key: f"{key}: {text}"
            )


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, {"logit_scale"}),
        ({"global_loss_weight": 0.1}, set()),
        ({"loss": LocalInfoNCE()}, set()),
        ({"loss": GlobalInfoNCE()}, {"cross_net.aggr_net", "cross_net.cap_aggr_net"}),
        ({"loss": GlobalInfoNCE(), "refinement": "none"}, set()),
    ],
)
def test_what_a_loss_does_not_use_is_not_trained(
    options: dict[str, Any], frozen: set[str], module: Callable[..., FineLIPModule]
) -> None:
    model = module(**options).model
    still = {name for name, p in model.named_parameters() if not p.requires_grad} - {"positional_embedding"}
    assert {name.partition(".weight.")[0].removesuffix(".scale") for name in still} == frozen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, r"model\.lr must not be negative, got -1.0"),
        ({"accumulate": 0}, r"model\.accumulate must be at least 1, got 0"),
        ({"epochs": 0}, r"model\.epochs must be at least 1, got 0"),
        ({"warmup_steps": -1}, r"model\.warmup_steps must not be negative"),
        ({"global_loss_weight": -1.0}, r"model\.global_loss_weight must not be negative"),
        ({"init": "none.pt"}, r"model\.init must be an existing file"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, module: Callable[..., FineLIPModule]) -> None:
    with pytest.raises(UsageError, match=message):
        module(**options)


def test_the_reference_needs_a_whole_update(
    module: Callable[..., FineLIPModule], pairs: Callable[[int], list[Batch]], make_trainer: Callable[..., Trainer]
) -> None:
    with pytest.raises(UsageError, match="must not exceed the 2 batches of an epoch with reference_schedule, got 4"):
        make_trainer(1).fit(module(accumulate=4, reference_schedule=True), loader(pairs(4), 2))
    with pytest.raises(UsageError, match=r"model\.epochs must be at least trainer\.max_epochs \(3\), got 2"):
        make_trainer(3).fit(module(epochs=2), loader(pairs(4), 2))
    with pytest.raises(
        UsageError, match=r"trainer\.max_epochs must be at least 1, .* the schedule needs its end, got -1"
    ):
        make_trainer(-1).fit(module(), loader(pairs(4), 2))
    with pytest.raises(
        UsageError, match=r"data\.batch_size must leave at least one batch of training pairs, got inf batches"
    ):
        make_trainer(1, limit_train_batches=0).fit(module(), loader(pairs(4), 2))
