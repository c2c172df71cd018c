"""Pairs as batches: tokens, pictures, order, and what happens to those that cannot be read."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from open_clip.transform import image_transform
from PIL import Image
from torch import Tensor, nn

from finelip.captioned_split import TokenTable
from finelip.data import CaptionDataModule
from finelip.epoch_batches import EpochBatches, batch_sizes
from finelip.late_detail.source import LateDetail
from finelip.sources.pairs import Pair
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError


class Drawn:
    """A source of noise in many sizes and modes, some of it unreadable; counts what is asked for."""

    name = "drawn"
    provenance = "synthetic"

    def __init__(
        self, captions: list[str], broken: tuple[int, ...] = (), short: list[str | None] | None = None
    ) -> None:
        self.captions = captions
        self.broken = broken
        self.short = short or [None] * len(captions)
        self.asked = 0

    def pairs(self, split: str) -> list[Pair]:
        if split == "validation":
            return []
        return [Pair(f"{i}.png", c, s, i // 2) for i, (c, s) in enumerate(zip(self.captions, self.short, strict=True))]

    def picture(self, split: str, index: int) -> Image.Image:
        self.asked += 1
        if index in self.broken:
            raise OSError(f"{index}.png is damaged\nat byte 7")
        rng = np.random.default_rng(index)
        height, width = rng.integers(20, 90, 2)
        picture = Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
        return picture.convert(("RGB", "L", "P", "CMYK")[index % 4])


def captions(count: int) -> list[str]:
    return [f"number {i} " + "and a red disc " * (7 * i % 11) for i in range(count)]


def module(source: Any, **options: Any) -> CaptionDataModule:
    return CaptionDataModule(source, **({"image_size": 32, "batch_size": 4, "seed": 3} | options))


def items_of(data: CaptionDataModule, epoch: int = 0) -> list[list[int]]:
    sampler = data.train_dataloader().sampler
    assert isinstance(sampler, EpochBatches)
    sampler.set_epoch(epoch)
    return [batch.items for batch in sampler]


# ---------------------------------------------------------------------- order


@given(
    st.lists(st.integers(2, 248), min_size=1, max_size=200),
    st.integers(2, 9),
    st.booleans(),
    st.integers(0, 5),
    st.booleans(),
)
def test_every_pair_once(lengths: list[int], size: int, bucket: bool, epoch: int, shuffle: bool) -> None:
    batches = EpochBatches(lengths, size, seed=1, bucket=bucket, shuffle=shuffle)
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert sorted(item for batch in drawn for item in batch.items) == list(range(len(lengths)))
    assert sorted(len(batch.items) for batch in drawn) == sorted(batches.sizes)
    assert all(batch.length == max(lengths[item] for item in batch.items) for batch in drawn)
    if shuffle and len(lengths) > 1:
        assert min(len(batch.items) for batch in drawn) > 1  # a pair alone has nothing to be told from
    assert drawn == list(batches)


@pytest.mark.parametrize("bucket", [True, False])
def test_processes_share_the_batches_evenly(bucket: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).integers(20, 200, 103)
    alone = EpochBatches(lengths, 12, seed=5, bucket=bucket)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    ranks = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        ranks.append(EpochBatches(lengths, 4, seed=5, bucket=bucket))
    parts = [list(batches) for batches in ranks]
    whole = list(alone)
    assert len({len(part) for part in parts}) == 1
    for number, batch in enumerate(whole[:-1]):
        shares = [part[number] for part in parts]
        assert sorted(item for share in shares for item in share.items) == sorted(batch.items)
        assert {share.length for share in shares} == {batch.length}  # all cut alike
        assert {len(share.items) for share in shares} == {4}
    seen = [item for part in parts for share in part for item in share.items]
    assert len(seen) == len(set(seen)) == 102  # 103 do not divide by three
    evaluation = EpochBatches(lengths, 4, seed=5, shuffle=False)
    assert [item for batch in evaluation for item in batch.items] == list(range(103))


def test_batches_hold_captions_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(90, 240, 2000)

    def waste(bucket: bool) -> float:
        batches = list(EpochBatches(lengths, 25, seed=0, bucket=bucket))
        return sum(b.length * len(b.items) for b in batches) / lengths.sum() - 1

    assert waste(True) < 0.3 * waste(False)


def test_epochs_differ_and_seeds_do() -> None:
    source = Drawn(captions(40))
    assert items_of(module(source), 0) == items_of(module(source), 0)
    assert items_of(module(source), 0) != items_of(module(source), 1)
    assert items_of(module(source), 0) != items_of(module(source, seed=4), 0)
    together = [{frozenset(batch) for batch in items_of(module(source), epoch)} for epoch in range(2)]
    assert together[0] != together[1]


def test_sizes_of_batches() -> None:
    assert batch_sizes(3, 8) == [3]
    assert batch_sizes(1, 8) == [1]
    assert batch_sizes(9, 4, join_last=False) == [4, 4, 1]
    assert batch_sizes(2, 4, world=3) == []


# ---------------------------------------------------------------------- content


@given(st.lists(st.text("ab !?.0", max_size=60), min_size=1, max_size=6), st.integers(2, 20))
def test_tokens_are_those_of_the_tokenizer(texts: list[str], context: int) -> None:
    table = TokenTable(texts, context)
    ids, lengths, truncated = LongTokenizer(context)(texts)
    assert table.lengths.tolist() == lengths.tolist()
    assert table.truncated == int(truncated.sum())
    assert torch.equal(table.padded(range(len(texts)), context), ids)


@pytest.mark.parametrize("keep_mib", [0, 8])
def test_pictures_are_those_of_open_clip(keep_mib: int) -> None:
    source = Drawn(captions(8))
    data = module(source, eval_batch_size=8, keep_mib=keep_mib)
    transform = image_transform(32, is_train=False)
    wanted = torch.stack([transform(source.picture("test", i)) for i in range(8)])
    source.asked = 0
    for _ in range(2):
        (batch,) = data.test_dataloader()
        torch.testing.assert_close(batch["image"], wanted, rtol=0, atol=1e-6)
    assert source.asked == (8 if keep_mib else 16)
    assert batch["image"].is_contiguous()


def test_a_batch_is_cut_to_its_longest_caption() -> None:
    short = [f"the {i}th" for i in range(11)]
    data = module(Drawn(captions(11), short=list(short)), eval_batch_size=4)
    whole = LongTokenizer(248)(captions(11))
    shorts = LongTokenizer(248)(short)
    for number, batch in enumerate(data.test_dataloader()):
        rows = slice(4 * number, 4 * number + 4)
        longest = int(whole.lengths[rows].max())
        assert torch.equal(batch["ids"], whole.ids[rows, :longest])
        assert torch.equal(batch["lengths"], whole.lengths[rows])
        assert torch.equal(batch["short_ids"], shorts.ids[rows, : int(shorts.lengths[rows].max())])
        assert batch["pair_id"].tolist() == [i // 2 for i in range(11)][rows]
        assert set(batch) == {"image", "ids", "lengths", "short_ids", "pair_id"}
    assert number == 2


def test_short_captions_are_left_out_where_one_is_missing() -> None:
    data = module(Drawn(captions(4), short=["one", "two", None, "four"]))
    assert all("short_ids" not in batch for batch in data.train_dataloader())


def test_long_captions_are_counted_and_warned_of_once() -> None:
    data = module(Drawn(captions(8)), context_length=20)
    with pytest.warns(UserWarning, match=r"5 of 8 test captions of drawn have more than 20 tokens and lose their end"):
        data.setup("test")
    data.setup("test")  # no second warning, which would be an error here
    assert data.truncated == {"test": 5}
    (batch, *_) = data.test_dataloader()
    assert batch["ids"].shape[1] == 20


def test_limits_take_the_first_pairs() -> None:
    data = module(LateDetail(40, 20, 20), train_pairs=10, validation_pairs=5, test_pairs=6)
    data.setup()
    assert data.describe()["pairs"] == {"train": 10, "validation": 5, "test": 6}
    assert sorted(item for batch in items_of(data) for item in batch) == list(range(10))
    assert data.provenance == "synthetic"


def test_workers_give_the_same_batches() -> None:
    plain, spread = (module(LateDetail(16, 4, 4), workers=workers) for workers in (0, 2))
    for one, two in zip(plain.train_dataloader(), spread.train_dataloader(), strict=True):
        assert set(one) == set(two)
        assert all(torch.equal(one[name], two[name]) for name in one)


# ---------------------------------------------------------------------- unreadable pictures and bad input


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_left_out_and_counted_once(workers: int) -> None:
    data = module(Drawn(captions(12), broken=(3, 7)), max_unreadable=0.2, workers=workers)
    for _ in range(2):
        seen = [tuple(row) for batch in data.test_dataloader() for row in batch["lengths"][:, None].tolist()]
        assert len(seen) == 10
    assert data.unreadable == {"test": 2}
    assert data.describe()["unreadable"] == {"test": 2}
    trained = [len(batch["image"]) for batch in data.train_dataloader()]
    assert sum(trained) == 10


def test_with_several_processes_another_pair_takes_the_place() -> None:
    data = module(Drawn(captions(12), broken=(3, 7)), max_unreadable=0.2)
    data.dataset("train").fill = True
    batches = list(data.train_dataloader())
    assert [len(batch["image"]) for batch in batches] == [4, 4, 4]
    assert data.unreadable == {"train": 2}


def test_a_batch_without_any_readable_picture() -> None:
    data = module(Drawn(captions(8), broken=tuple(range(4))), max_unreadable=0.5, eval_batch_size=4)
    assert [len(batch["image"]) for batch in data.test_dataloader()] == [4]
    all_broken = module(Drawn(captions(4), broken=tuple(range(4))), max_unreadable=1)
    with pytest.raises(UsageError, match=r"data.batch_size must leave a readable picture in every batch, got 4"):
        list(all_broken.train_dataloader())


def test_too_many_unreadable_pictures_end_the_run() -> None:
    data = module(Drawn(captions(12), broken=(3,)), max_unreadable=0.05)
    sentence = (
        r"data.max_unreadable must be at least the share of unreadable pictures, but of 12 test pictures 1 cannot be "
        r"read so far, 3.png among them \(3.png is damaged at byte 7\)"
    )
    with pytest.raises(UsageError, match=sentence):
        list(data.test_dataloader())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 1}, "data.batch_size must be at least 2, got 1"),
        ({"context_length": 1}, "data.context_length must be at least 2, got 1"),
        ({"image_size": 0}, "data.image_size must be at least 1, got 0"),
        ({"workers": -1}, "data.workers must be at least 0, got -1"),
        ({"max_unreadable": 1.5}, r"data.max_unreadable must lie in \[0, 1\], got 1.5"),
        ({"train_pairs": 1}, "data.train_pairs must be at least 2, got 1"),
        ({"seed": -1}, "data.seed must be at least 0, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        module(Drawn(captions(4)), **options)


def test_every_process_needs_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    sentence = r"data.source must have a training pair for every process, but drawn has 2"
    with pytest.raises(UsageError, match=sentence):
        module(Drawn(captions(2))).train_dataloader()


def test_bad_sources() -> None:
    with pytest.raises(UsageError, match=r"data.source must have pairs to use for validation, but drawn has none"):
        module(Drawn(captions(4))).val_dataloader()
    with pytest.raises(UsageError, match=r"data.source must have captions with words, but drawn has none for 1.png"):
        module(Drawn(["a cat", " \n", "a dog"])).setup("fit")


# ---------------------------------------------------------------------- in a trainer


class Trace(LightningModule):
    """Keeps what it is trained with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch["pair_id"].tolist())
        return self.weight * batch["image"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`.*", "ignore:.*`training_step` but have no.*")
def test_one_epoch_and_one_more_are_two(make_trainer: Callable[..., Trainer], tmp_path: Any) -> None:
    class TrainingOnly(CaptionDataModule):
        val_dataloader = None  # type: ignore[assignment]

        def setup(self, stage: str | None = None) -> None:
            self.dataset("train")

    def data() -> TrainingOnly:
        return TrainingOnly(LateDetail(20, 4, 4), image_size=48, batch_size=4, seed=1)

    whole, first, second = Trace(), Trace(), Trace()
    make_trainer(2).fit(whole, datamodule=data())
    make_trainer(1, "half").fit(first, datamodule=data())
    (checkpoint,) = (tmp_path / "half/checkpoints").glob("*.ckpt")
    make_trainer(2, "half").fit(second, datamodule=data(), ckpt_path=checkpoint)
    assert first.seen + second.seen == whole.seen
    assert first.seen != second.seen
    assert torch.equal(second.weight, whole.weight)


def test_the_source_goes_to_worker_processes() -> None:
    source = LateDetail(8, 4, 4)
    again = pickle.loads(pickle.dumps(source))
    assert np.asarray(again.picture("train", 5)).tolist() == np.asarray(source.picture("train", 5)).tolist()
