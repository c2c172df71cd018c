"""Which frames of which clips are trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shared.errors import UsageError
from usssl.sources.clips import Clip

THUMBNAIL = 32  # side of the pictures that near-identical frames are told by


@dataclass(frozen=True)
class Sampling:
    """The rules, in the order in which they act.

    Attributes:
        max_videos: Keep so many clips, drawn by the seed.
        share: Keep so many percent of the clips or patients, at least one, drawn by the seed; a smaller share is part
            of a larger one.
        share_of: Which of the two; with ``patient`` all clips of a patient stay together.
        frame_skip: Frames whose number is a multiple of it: ceil(T / skip) of a clip; 5 is the reference's default.
        frames_per_video: At most so many of those.
        choice: Take these evenly spread over the clip or at random.
        dedup: Drop a frame whose mean absolute difference to the last one kept, in grey levels on a thumbnail of 32 x
            32, is below this; ``None`` reads no frame.
        max_frames: Keep so many of all frames, drawn by the seed.
        total: Exactly so many frames, whatever the number of clips: ``frame_skip`` becomes the largest one that leaves
            as many, and the rest is drawn off by the seed.

    Raises:
        UsageError: A number is out of range.
    """

    max_videos: int | None = None
    share: float = 100.0
    share_of: Literal["video", "patient"] = "video"
    frame_skip: int = 5
    frames_per_video: int | None = None
    choice: Literal["uniform", "random"] = "uniform"
    dedup: float | None = None
    max_frames: int | None = None
    total: int | None = None

    def __post_init__(self) -> None:
        for option in ("max_videos", "frame_skip", "frames_per_video", "max_frames", "total"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise UsageError(f"data.sampling.{option} must be at least 1, got {value}")
        if not 0 < self.share <= 100:
            raise UsageError(f"data.sampling.share must lie in (0, 100] percent, got {self.share:g}")
        if self.share_of not in ("video", "patient"):
            raise UsageError(f"data.sampling.share_of must be video or patient, got {self.share_of!r}")
        others = (self.frames_per_video, self.dedup, self.max_frames)
        if self.total is not None and any(other is not None for other in others):
            raise UsageError("data.sampling.total cannot be combined with frames_per_video, dedup or max_frames")
        if self.choice not in ("uniform", "random"):
            raise UsageError(f"data.sampling.choice must be uniform or random, got {self.choice!r}")
        if self.dedup is not None and not 0 <= self.dedup <= 255:
            raise UsageError(f"data.sampling.dedup must lie in 0..255 grey levels, got {self.dedup}")


def frame_index(clips: Sequence[Clip], sampling: Sampling, seed: int) -> np.ndarray:
    """The chosen frames.

    Args:
        clips: All clips.
        sampling: The rules.
        seed: Of what is drawn; each clip has a stream of its own.

    Returns:
        ``(N, 2)`` int64, ascending: number of the clip and number of the frame.

    Raises:
        UsageError: A frame cannot be read (``dedup`` alone reads any), a clip of no known patient where patients are
            drawn, or fewer frames than ``total``.

    Example:
        >>> clips = [Clip(str(n), "", n, reader=None) for n in (23, 5, 1, 40)]
        >>> len(frame_index(clips, Sampling(frame_skip=5), 0))
        15
    """
    numbers = np.arange(len(clips))
    if sampling.max_videos is not None and sampling.max_videos < len(clips):
        numbers = np.sort(_stream(seed, 0).permutation(len(clips))[: sampling.max_videos])
    if sampling.share < 100:
        numbers = numbers[np.isin(numbers, _share(clips, sampling, seed))]
    if sampling.total is not None:
        skip, spare = _skip_for([clips[number].frames for number in numbers.tolist()], sampling.total)
        sampling = replace(sampling, frame_skip=skip, max_frames=sampling.total if spare else None, total=None)
    parts = []
    for number in numbers.tolist():
        frames = _chosen(clips[number], sampling, _stream(seed, 1, number))
        parts.append(np.stack([np.full(len(frames), number), frames], axis=1))
    index = np.concatenate(parts) if parts else np.empty((0, 2), np.int64)
    if sampling.max_frames is not None and sampling.max_frames < len(index):
        index = index[np.sort(_stream(seed, 2).permutation(len(index))[: sampling.max_frames])]
    return index.astype(np.int64)


def _share(clips: Sequence[Clip], sampling: Sampling, seed: int) -> np.ndarray:
    units = np.arange(len(clips))
    if sampling.share_of == "patient":
        unknown = [clip.video_id for clip in clips if clip.patient is None]
        if unknown:
            raise UsageError(
                f"data.sampling.share_of must be video where patients are unknown, got patient and {unknown[0]} of "
                "an unknown one"
            )
        units = np.unique([str(clip.patient) for clip in clips], return_inverse=True)[1]
    count = int(units.max()) + 1
    kept = max(1, int(sampling.share / 100 * count + 0.5))
    return np.flatnonzero(np.isin(units, _stream(seed, 3).permutation(count)[:kept]))


def _skip_for(lengths: Sequence[int], total: int) -> tuple[int, int]:
    """The largest skip that leaves ``total`` frames, and how many more it leaves."""

    def left(skip: int) -> int:
        return sum(-(-length // skip) for length in lengths)

    if left(1) < total:
        raise UsageError(f"data.sampling.total must be at most the number of frames ({left(1)}), got {total}")
    skip = max(skip for skip in range(1, max(lengths) + 1) if left(skip) >= total)
    return skip, left(skip) - total


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, *path]))


def _chosen(clip: Clip, sampling: Sampling, rng: np.random.Generator) -> np.ndarray:
    frames = np.arange(0, clip.frames, sampling.frame_skip)
    most = sampling.frames_per_video
    if most is not None and most < len(frames):
        if sampling.choice == "random":
            frames = np.sort(rng.permutation(frames)[:most])
        else:  # the middles of so many equal parts
            frames = frames[((np.arange(most) + 0.5) * len(frames) / most).astype(np.int64)]
    return frames if sampling.dedup is None else _distinct(clip, frames, sampling.dedup)


def _distinct(clip: Clip, frames: np.ndarray, least: float) -> np.ndarray:
    kept: list[int] = []
    last: np.ndarray | None = None
    for frame in frames.tolist():
        picture = thumbnail(clip.read(frame))
        if last is None or np.abs(picture - last).mean() >= least:
            kept.append(frame)
            last = picture
    return np.array(kept, np.int64)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """``(32, 32)`` float32 means of blocks of a ``(H, W)`` or ``(H, W, 3)`` uint8 picture."""
    from PIL import Image

    grey = Image.fromarray(picture).convert("L")
    return np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), dtype=np.float32)
