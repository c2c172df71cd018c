"""Unlabelled ultrasound video as a LightningDataModule: frames, chosen by rules, made into views."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import UsageError
from usssl.augmentation.normalisation import normalised_picture
from usssl.augmentation.recipes import ViewRecipe
from usssl.augmentation.resizing import Resize, check_mode, resized
from usssl.augmentation.two_views import InfomaxViews
from usssl.epoch_draws import SEED, EpochDraws
from usssl.frame_dataset import Fit, FrameBatch, FrameDataset, LabelledPart, Positive, collated
from usssl.frame_index import Sampling, frame_index
from usssl.labelled import PlaneDataModule
from usssl.sources.clips import Clip, ClipSets, VideoSource, provenance_of


class UltrasoundVideoDataModule(LightningDataModule):
    """Frames of videos as independent images, the way the paper pretrains.

    A training batch is the tuple that the recipe makes, ``(B, 3, S, S)`` float32 images normalised as ImageNet's: two
    views, or one image, or an erased and a whole one. With ``labelled`` it is
    ``{"views": ..., "labelled": ..., "labels": (L,)}``.

    Frame ``i`` of epoch ``e`` is changed by a seed of (``seed``, ``e``, ``i``), whatever the workers, batches, ranks.

    Args:
        source: Where the clips come from.
        views: What frames are made into.
        sampling: Which frames are used.
        backend: ``pil`` makes views of PIL pictures in loader workers, as the reference does; ``batched`` makes them of
            whole batches on the training device.
        image_size: Height and width S of the views.
        resize: How pictures that are not square become square, where the recipe resizes before anything else.
        load_size: Side that frames are resized to before batches are made; ``None`` keeps their sizes, which must then
            be equal for ``batched``.
        positive: Whether both views show one frame, or two frames of a clip.
        max_gap_s: The most seconds between two such frames.
        batch_size: Frames in a training batch; a smaller last batch is left out.
        epoch_frames: Frames of an epoch, some of them or all of them again and again, so that runs on more and on fewer
            frames take equally many steps; ``None``: every frame once.
        labelled: Labelled pictures that come with every batch, for methods that use them.
        labelled_batch_size: How many.
        num_workers: Loader processes.
        seed: Of everything random; ``None``: as ``seed_everything``, or 73.

    Raises:
        UsageError: An option is out of range.
    """

    def __init__(
        self,
        source: VideoSource,
        views: ViewRecipe = InfomaxViews(),  # noqa: B008 - frozen
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        backend: Literal["pil", "batched"] = "pil",
        image_size: int = 256,
        resize: Literal["reference", "stretch", "letterbox"] = "stretch",
        load_size: int | None = None,
        positive: Literal["same_frame", "intra_video"] = "same_frame",
        max_gap_s: float = 0.5,
        batch_size: int = 64,
        epoch_frames: int | None = None,
        labelled: PlaneDataModule | None = None,
        labelled_batch_size: int = 32,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        seed = SEED if seed is None else seed
        for option, value, least in (
            ("image_size", image_size, 16),
            ("load_size", load_size, 16),
            ("batch_size", batch_size, 2),
            ("epoch_frames", epoch_frames, batch_size),
            ("labelled_batch_size", labelled_batch_size, 2),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"data.{option} must be at least {least}, got {value}")
        if backend not in ("pil", "batched"):
            raise UsageError(f"data.backend must be pil or batched, got {backend!r}")
        if positive not in ("same_frame", "intra_video"):
            raise UsageError(f"data.positive must be same_frame or intra_video, got {positive!r}")
        if positive == "intra_video" and views.sources < 2:
            raise UsageError(
                f"data.positive must be same_frame where a recipe has one picture, got {type(views).__name__}"
            )
        if not max_gap_s > 0:
            raise UsageError(f"data.max_gap_s must be above 0, got {max_gap_s}")
        check_mode(resize)
        self.source, self.views, self.sampling, self.backend = source, views, sampling, backend
        self.image_size, self.load_size = image_size, load_size
        self.resize: Resize = resize
        self.positive: Positive = positive
        self.max_gap_s = max_gap_s
        self.epoch_frames = epoch_frames
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.labelled, self.labelled_batch_size = labelled, labelled_batch_size

    def setup(self, stage: str | None = None) -> None:
        """Find the clips and choose the frames; a second call does nothing."""
        if self.labelled is not None:
            self.labelled.setup(stage)
        if stage in (None, "fit") and len(self.index) < self.batch_size:
            raise UsageError(
                f"data.batch_size must be at most the number of frames to train on ({len(self.index)}), "
                f"got {self.batch_size}"
            )

    @cached_property
    def _sets(self) -> ClipSets:
        sets = self.source.load()
        if not sets.train:
            raise UsageError(f"data.source must hold at least one clip, {sets.name} has none")
        return sets

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The clips for training."""
        return self._sets.train

    @property
    def all_clips(self) -> tuple[Clip, ...]:
        """The clips for training, then those for validation."""
        return (*self._sets.train, *self._sets.validation)

    @cached_property
    def index(self) -> np.ndarray:
        """``(N, 2)`` the chosen training frames: number of the clip, number of the frame."""
        return frame_index(self.clips, self.sampling, self.seed)

    @cached_property
    def validation_index(self) -> np.ndarray:
        """The same for validation, where a share and a total are of no concern: they say what is trained on."""
        return frame_index(self._sets.validation, replace(self.sampling, share=100, total=None), self.seed)

    @property
    def data_name(self) -> str:
        """What the data are called."""
        return self._sets.name

    @property
    def provenance(self) -> str:
        """``real``, ``derived`` or ``synthetic``: the least real kind among the clips."""
        return provenance_of(self.clips)

    @property
    def pretraining_patients(self) -> dict[str, list[str]]:
        """Everybody whose frames are trained on, as far as known, by the name of the data."""
        found: dict[str, set[str]] = {}
        for number in np.unique(self.index[:, 0]).tolist():
            clip = self.clips[number]
            if clip.patient is not None:
                found.setdefault(clip.origin[0] or self.data_name, set()).add(clip.origin[1] or clip.patient)
        return {name: sorted(patients) for name, patients in sorted(found.items())}

    def frames_counted(self) -> dict[str, int]:
        """How many frames, videos, patients and machines are trained on; unknown ones are not counted."""
        used = [self.clips[number] for number in np.unique(self.index[:, 0]).tolist()]
        return {
            "frames": len(self.index),
            "videos": len(used),
            "patients": len({clip.patient for clip in used} - {None}),
            "machines": len({clip.machine for clip in used} - {None}),
        }

    def describe(self) -> dict[str, Any]:
        """What is trained on, ready for JSON."""
        return {
            "name": self.data_name,
            "provenance": self.provenance,
            "train": self.frames_counted(),
            "validation_frames": len(self.validation_index),
            "views": type(self.views).__name__,
            "backend": self.backend,
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "positive": self.positive,
            "seed": self.seed,
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled training batches."""
        part = None
        if self.labelled is not None:
            part = LabelledPart(self.labelled.train_images, self.labelled_batch_size)
        dataset = self._dataset(self.clips, self.index, part)
        return self._loader(dataset, EpochDraws(dataset, self.seed, count=self.epoch_frames), drop_last=True)

    def val_dataloader(self) -> list[DataLoader[Any]] | DataLoader[Any]:
        """The validation frames in order, changed alike in every epoch; none where there are no validation clips."""
        if len(self.validation_index) == 0:
            return []
        dataset = self._dataset(self._sets.validation, self.validation_index, None)
        return self._loader(dataset, EpochDraws(dataset, self.seed + 1, shuffle=False), drop_last=False)

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """The chosen training frames in order, resized and normalised: ``(B, 3, S, S)``."""
        dataset = PlainFrames(self.clips, self.index, self.image_size, self.resize)
        return DataLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Views of the bytes that the loader gave, made on the device they are on now."""
        if isinstance(batch, FrameBatch):
            return self._batched(batch.frames, batch.seeds)
        if isinstance(batch, dict):
            return {key: self.on_after_batch_transfer(value, dataloader_idx) for key, value in batch.items()}
        return batch

    @cached_property
    def _batched(self) -> Callable[..., tuple[Tensor, ...]]:
        return self.views.batched(self.image_size)

    def _dataset(self, clips: tuple[Clip, ...], index: np.ndarray, labelled: LabelledPart | None) -> FrameDataset:
        on_workers = self.backend == "pil"
        fit = Fit(self.image_size if self.views.resizes_first else self.load_size, self.resize)
        views = self.views.pil(self.image_size, self.resize) if on_workers else None
        return FrameDataset(clips, index, self.positive, self.max_gap_s, views, fit, labelled)

    def _loader(self, dataset: FrameDataset, draws: EpochDraws, drop_last: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=self.batch_size,
            sampler=draws,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=collated,
            pin_memory=torch.cuda.is_available(),
        )


class PlainFrames(Dataset[Tensor]):
    """Frames resized and normalised: ``(3, S, S)``.

    Args:
        clips: All clips.
        index: ``(N, 2)`` number of the clip and of the frame.
        size: Height and width S.
        resize: How to get there.
    """

    def __init__(self, clips: tuple[Clip, ...], index: np.ndarray, size: int, resize: Resize) -> None:
        self.clips, self.index, self.size, self.resize = clips, index, size, resize

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int) -> Tensor:
        number, frame = self.index[item].tolist()
        picture = Image.fromarray(self.clips[number].read(frame)).convert("RGB")
        return normalised_picture(resized(picture, self.size, self.resize))
