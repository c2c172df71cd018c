"""Frames of clips as items of a loader: views made in its workers, or bytes for the device to make views of."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from shared.data.labelled_images import LabelledImages
from shared.data.prepared_images import Draw
from shared.errors import UsageError
from shared.federated.seeds import derived_seed
from usssl.augmentation.recipes import PilViews
from usssl.augmentation.resizing import Resize, resized
from usssl.sources.clips import Clip

Positive = Literal["same_frame", "intra_video"]


class Item(NamedTuple):
    """Views, or bytes of frames; the seed; the class of a labelled picture."""

    images: tuple[Tensor, ...]
    seed: int
    label: int | None = None


class FrameBatch(NamedTuple):
    """What the device makes views of: one batch for both views or one for each, and a seed for every item."""

    frames: tuple[Tensor, ...]
    seeds: tuple[int, ...]


class Fit(NamedTuple):
    """How frames are brought to one size before a batch is made: ``None`` keeps them."""

    size: int | None
    mode: Resize


class LabelledPart(NamedTuple):
    """Labelled pictures, and how many of them come with every batch."""

    images: LabelledImages
    size: int


class FrameDataset(Dataset[Item]):
    """Chosen frames of clips.

    Args:
        clips: All clips.
        index: ``(N, 2)`` number of the clip and of the frame.
        positive: Whether both views come from one frame, or the second from another frame of the clip.
        max_gap_s: The most seconds between the two.
        views: Makes views of PIL pictures; ``None`` gives bytes.
        fit: For bytes.
        labelled: Pictures that are drawn anew for every batch.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        index: np.ndarray,
        positive: Positive,
        max_gap_s: float,
        views: PilViews | None,
        fit: Fit,
        labelled: LabelledPart | None = None,
    ) -> None:
        self.clips, self.index = list(clips), index
        self.positive, self.max_gap_s = positive, max_gap_s
        self.views, self.fit, self.labelled = views, fit, labelled
        if positive == "intra_video":
            for number in np.unique(index[:, 0]).tolist():
                _check_pairs(self.clips[number], max_gap_s)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, draw: Draw) -> Item:
        return self._item(self._frames(draw), draw.seed)

    def __getitems__(self, draws: Sequence[Draw]) -> list[Item]:
        items = [self[draw] for draw in draws]
        if self.labelled is None:
            return items
        data, size = self.labelled
        seed = derived_seed(draws[0].seed, "labelled")
        rows = np.random.default_rng(seed).permutation(len(data))[:size]
        for place, (row, pixels) in enumerate(zip(rows.tolist(), data.pixels(rows), strict=True)):
            picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
            items.append(self._item([picture], derived_seed(seed, "item", place), int(data.labels[row])))
        return items

    def partner(self, clip: Clip, frame: int, seed: int) -> int:
        """Another frame of the clip, not further away than ``max_gap_s``, drawn evenly."""
        assert clip.fps is not None
        reach = int(self.max_gap_s * clip.fps + 1e-9)
        low, high = max(0, frame - reach), min(clip.frames - 1, frame + reach)
        others = [other for other in range(low, high + 1) if other != frame]
        return others[int(np.random.default_rng(derived_seed(seed, "partner")).integers(len(others)))]

    def _frames(self, draw: Draw) -> list[np.ndarray]:
        number, frame = self.index[draw.item].tolist()
        clip = self.clips[number]
        chosen = [frame, self.partner(clip, frame, draw.seed)] if self.positive == "intra_video" else [frame]
        return [clip.read(one) for one in chosen]

    def _item(self, pictures: Sequence[np.ndarray], seed: int, label: int | None = None) -> Item:
        if self.views is None:
            return Item(tuple(self._bytes(picture) for picture in pictures), seed, label)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the GPU's state alone
            return Item(self.views([Image.fromarray(picture).convert("RGB") for picture in pictures]), seed, label)

    def _bytes(self, picture: np.ndarray) -> Tensor:
        if self.fit.size is not None:
            picture = np.asarray(resized(Image.fromarray(picture), self.fit.size, self.fit.mode))
        array = picture[None] if picture.ndim == 2 else picture.transpose(2, 0, 1)
        return torch.from_numpy(np.array(array))


def _check_pairs(clip: Clip, max_gap_s: float) -> None:
    if clip.frames < 2:
        raise UsageError(
            f"data.positive intra_video needs clips of at least 2 frames, {clip.video_id} has {clip.frames}: "
            f"use same_frame or leave it out"
        )
    if clip.fps is None:
        raise UsageError(
            f"data.positive intra_video needs the frames per second of every clip, {clip.video_id} says none: "
            f"give a manifest with the column fps"
        )
    if max_gap_s * clip.fps < 1 - 1e-9:
        raise UsageError(
            f"data.max_gap_s must reach the next frame of every clip, got {max_gap_s:g} s and "
            f"{clip.fps:g} frames per second in {clip.video_id}"
        )


def collated(items: Sequence[Item]) -> Any:
    """A batch: a tuple of views or a :class:`FrameBatch`; with labelled items a dict of both kinds and the labels."""
    plain = _joined([item for item in items if item.label is None])
    labelled = [item for item in items if item.label is not None]
    if not labelled:
        return plain
    labels = torch.tensor([item.label for item in labelled])
    return {"views": plain, "labelled": _joined(labelled), "labels": labels}


def _joined(items: Sequence[Item]) -> tuple[Tensor, ...] | FrameBatch:
    columns = list(zip(*(item.images for item in items), strict=True))
    if columns[0][0].dtype != torch.uint8:
        return tuple(torch.stack(column) for column in columns)
    return FrameBatch(tuple(_stacked(column) for column in columns), tuple(item.seed for item in items))


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    """``(B, 1 or 3, H, W)``: grey stays one channel unless colour is among it."""
    channels = max(len(picture) for picture in pictures)
    shapes = sorted({tuple(picture.shape[-2:]) for picture in pictures})
    if len(shapes) > 1:
        raise UsageError(
            f"data.load_size must be set where frames differ in size and views are made on the device, "
            f"got {shapes[0]} and {shapes[1]}"
        )
    return torch.stack([picture.expand(channels, -1, -1) for picture in pictures])
