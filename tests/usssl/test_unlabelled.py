from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from shared.data.prepared_images import Draw
from shared.errors import UsageError
from usssl.augmentation import AutoencoderViews, InpaintViews, SimclrViews
from usssl.echo_clip import EchoClip
from usssl.fetal_heart_phantom.source import PhantomPlanes, PhantomVideos
from usssl.frame_dataset import FrameBatch
from usssl.frame_index import Sampling
from usssl.labelled import PlaneDataModule
from usssl.sources.clips import ArrayReader, Clip, ClipSets, Joined, VideoSource
from usssl.unlabelled import UltrasoundVideoDataModule


class Stored(VideoSource):
    """Clips of given lengths whose frames tell their number."""

    def __init__(self, *lengths: int, fps: float | None = 20.0, sizes: tuple[int, ...] = (40,)) -> None:
        arrays = {
            str(n): np.arange(length, dtype=np.uint8)[:, None, None] * np.ones((1, sizes[n % len(sizes)], 40), np.uint8)
            for n, length in enumerate(lengths)
        }
        reader = ArrayReader(arrays)
        self.clips = tuple(Clip(f"c{n}", "", length, reader, key=str(n), fps=fps) for n, length in enumerate(lengths))

    def load(self) -> ClipSets:
        return ClipSets("stored", self.clips, self.clips[:1])


def _data(source: VideoSource, **options: Any) -> UltrasoundVideoDataModule:
    defaults: dict[str, Any] = {"image_size": 32, "batch_size": 4, "sampling": Sampling(frame_skip=4)}
    data = UltrasoundVideoDataModule(source, **defaults | options)
    data.setup("fit")
    return data


def _batches(data: UltrasoundVideoDataModule, epoch: int) -> list[Any]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


@pytest.mark.parametrize("backend", ["pil", "batched"])
def test_batches_are_two_views(backend: str, small_videos: PhantomVideos) -> None:
    data = _data(small_videos, backend=backend)
    assert data.frames_counted() == {
        "frames": 18,
        "videos": 6,
        "patients": 4,
        "machines": data.describe()["train"]["machines"],
    }
    assert data.provenance == "synthetic"
    batches = _batches(data, 0)
    assert len(batches) == 4  # the short last one is left out
    for batch in batches:
        assert isinstance(batch, tuple)
        assert [tuple(view.shape) for view in batch] == [(4, 3, 32, 32)] * 2
        assert not torch.equal(*batch)


@pytest.mark.parametrize("backend", ["pil", "batched"])
def test_an_epoch_does_not_depend_on_what_ran_before_or_on_workers(backend: str, small_videos: PhantomVideos) -> None:
    data = _data(small_videos, backend=backend)
    _batches(data, 0)
    third = _batches(data, 2)
    torch.manual_seed(99)
    fresh = _data(small_videos, backend=backend)
    assert _equal(third, _batches(fresh, 2))
    assert not _equal(third, _batches(fresh, 1))
    forked = _data(small_videos, backend=backend, num_workers=2)
    assert _equal(third, _batches(forked, 2))
    assert not _equal(third, _batches(_data(small_videos, backend=backend, seed=74), 2))


def test_lightning_tells_the_epoch(small_videos: PhantomVideos, tmp_path: Path) -> None:
    class Listener(LightningModule):
        """Adds up what it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)
            self.seen: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            self.seen.append(float(batch[0].sum()))
            return self.layer(batch[0].mean().view(1, 1)).sum()

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            assert batch[0].shape[1:] == (3, 32, 32)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data, listener = _data(small_videos, backend="batched"), Listener()
    Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(listener, datamodule=data)
    expected = [float(batch[0].sum()) for epoch in (0, 1) for batch in _batches(data, epoch)]
    assert listener.seen == expected


def test_validation_is_the_same_in_every_epoch(small_videos: PhantomVideos) -> None:
    data = _data(small_videos, backend="batched")
    first, second = ([data.on_after_batch_transfer(b, 0) for b in data.val_dataloader()] for _ in range(2))
    assert _equal(first, second)
    assert sum(len(batch[0]) for batch in first) == 6


def test_a_share_and_a_total_choose_what_is_trained_on_alone() -> None:
    data = _data(Stored(16, 10), sampling=Sampling(total=20))
    assert len(data.index) == 20
    assert len(data.validation_index) == -(-16 // Sampling().frame_skip)


def test_grey_bytes_stay_one_channel_on_the_way() -> None:
    (batch, *_) = _data(Stored(16), backend="batched").train_dataloader()
    assert isinstance(batch, FrameBatch)
    assert batch.frames[0].shape == (4, 1, 40, 40)
    assert batch.frames[0].dtype == torch.uint8


def test_the_default_data_mix_real_and_synthetic(small_videos: PhantomVideos) -> None:
    data = _data(Joined([EchoClip(), small_videos]), backend="batched", load_size=48, batch_size=8)
    assert data.provenance == "synthetic"
    assert data.data_name == "echo-clip + fetal-heart-phantom"
    assert _batches(data, 0)[0][0].shape == (8, 3, 32, 32)


@pytest.mark.parametrize(("views", "count"), [(AutoencoderViews(), 1), (InpaintViews(), 2)])
@pytest.mark.parametrize("backend", ["pil", "batched"])
def test_reconstruction_has_one_picture(views: AutoencoderViews, count: int, backend: str) -> None:
    batch = _batches(_data(Stored(16), views=views, backend=backend), 0)[0]
    assert len(batch) == count
    assert batch[0].shape == (4, 3, 32, 32)


def test_partners_come_from_nearby_frames_of_the_clip() -> None:
    data = _data(Stored(40, 40), positive="intra_video", max_gap_s=0.16, backend="batched")  # 20 per second: 3 frames
    dataset = data.train_dataloader().dataset
    gaps = set()
    for seed in range(60):
        first, second = dataset[Draw(5, seed)].images
        gap = int(second[0, 0, 0]) - int(first[0, 0, 0])
        gaps.add(gap)
    assert gaps == {-3, -2, -1, 1, 2, 3}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Stored(9, 1), {}, "clips of at least 2 frames, c1 has 1"),
        (Stored(9, fps=None), {}, "frames per second of every clip, c0 says none"),
        (Stored(9), {"max_gap_s": 0.01}, "must reach the next frame"),
        (Stored(9), {"views": AutoencoderViews()}, "must be same_frame where a recipe has one picture"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(source: VideoSource, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _data(source, positive="intra_video", batch_size=2, **options).train_dataloader()


def test_a_clip_of_one_frame_is_a_frame() -> None:
    data = _data(Stored(23, 5, 1, 40), sampling=Sampling(frame_skip=5))
    assert data.frames_counted()["frames"] == 15
    assert data.index[7].tolist() == [3, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _data(Stored(4)), r"data.batch_size must be at most the number of frames to train on \(1\), got 4"),
        (lambda: _data(Stored(4), backend="gpu"), "data.backend must be pil or batched"),
        (lambda: _data(Stored()), "data.source must hold at least one clip, stored has none"),
        (lambda: _data(Stored(9), positive="video"), "data.positive must be same_frame or intra_video, got 'video'"),
        (lambda: _data(Stored(9), max_gap_s=0.0), "data.max_gap_s must be above 0, got 0"),
        (lambda: _data(Stored(4), image_size=1), "data.image_size must be at least 16"),
        (lambda: _data(Stored(4), resize="fit"), "data.resize must be one of"),
        (lambda: _batches(_data(Stored(20, 20, sizes=(40, 44)), backend="batched"), 0), "data.load_size must be set"),
        (
            lambda: _batches(_data(Stored(20, sizes=(44,)), resize="reference", views=AutoencoderViews()), 0),
            "not square",
        ),
    ],
)
def test_wrong_options_are_told_in_one_sentence(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("backend", ["pil", "batched"])
def test_labelled_pictures_come_beside_the_views(
    backend: str, small_videos: PhantomVideos, small_planes: PhantomPlanes
) -> None:
    labelled = PlaneDataModule(small_planes, image_size=32, fraction=50)
    data = _data(small_videos, backend=backend, views=SimclrViews(), labelled=labelled, labelled_batch_size=6)
    batch = _batches(data, 0)[0]
    assert [view.shape[0] for view in batch["views"]] == [4, 4]
    assert [view.shape[0] for view in batch["labelled"]] == [6, 6]
    assert batch["labels"].shape == (6,)
    assert torch.equal(batch["labels"], _batches(data, 0)[0]["labels"])


def test_pretraining_never_sees_the_people_who_are_tested(
    small_videos: PhantomVideos, small_planes: PhantomPlanes
) -> None:
    tested = PlaneDataModule(small_planes).patients("test")
    assert tested is not None
    (seen,) = _data(small_videos).pretraining_patients.values()
    assert seen
    assert not set(seen) & set(tested.tolist())


def test_joined_sources_keep_the_names_of_their_people(small_videos: PhantomVideos) -> None:
    alone = _data(small_videos).pretraining_patients
    nested = Joined([EchoClip(), Joined([Stored(5), small_videos])])
    assert _data(nested).pretraining_patients == alone | {"echo-clip": ["echo-clip"]}


def test_an_epoch_may_have_a_fixed_number_of_frames() -> None:
    data = _data(Stored(9, 9), sampling=Sampling(frame_skip=2), epoch_frames=24)
    draws = data.train_dataloader().sampler
    assert len(data.index) == 10
    assert len(data.train_dataloader()) == 6
    epochs = []
    for epoch in (0, 1):
        draws.set_epoch(epoch)  # type: ignore[attr-defined]
        epochs.append(list(draws))
    for drawn in epochs:
        assert sorted(Counter(draw.item for draw in drawn).values()) == [2] * 6 + [3] * 4
        assert len({draw.seed for draw in drawn}) == 24
        assert [draw.item for draw in drawn[:10]] != [draw.item for draw in drawn[10:20]]
    assert epochs[0] != epochs[1]
    few = _data(Stored(9, 9), sampling=Sampling(frame_skip=2), epoch_frames=4)
    assert [draw.item for draw in few.train_dataloader().sampler] == [draw.item for draw in epochs[0][:4]]
    with pytest.raises(UsageError, match=r"data.epoch_frames must be at least 4, got 3"):
        _data(Stored(9, 9), epoch_frames=3)


def test_plain_frames_come_in_order() -> None:
    data = _data(Stored(9, 9))
    x = torch.cat(list(data.predict_dataloader()))
    assert x.shape == (6, 3, 32, 32)
    assert x[:, 0, 0, 0].tolist() == pytest.approx([(n / 255 - 0.485) / 0.229 for n in (0, 4, 8) * 2], abs=1e-5)
