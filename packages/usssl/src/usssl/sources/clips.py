"""A clip, who reads its frames, and the contract of a place that clips come from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.data.labelled_images import Provenance
from shared.errors import UsageError


class FrameReader(ABC):
    """Random access to the frames of clips of one format.

    Files are opened on first use and stay open in the process that opened them: what is pickled or forked opens its
    own, because a handle of HDF5 or FFmpeg that two processes share reads nonsense.
    """

    @abstractmethod
    def read(self, clip: "Clip", frame: int) -> np.ndarray:
        """``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            UsageError: The file cannot be read.
        """


class FileReader(FrameReader):
    """A reader of one file format."""

    @abstractmethod
    def probe(self, path: Path) -> list["Clip"]:
        """The clips of a file or a folder of frames, whose frames are counted and not decoded.

        Raises:
            UsageError: The file cannot be read.
        """


@dataclass(frozen=True)
class Clip:
    """One video, or one still picture as a video of one frame.

    Attributes:
        video_id: Unique in its set.
        path: The file, or the folder of frames.
        frames: How many there are.
        reader: Who reads them.
        key: Of the array inside the file, where a file holds several.
        fps: Frames per second, where known.
        patient: Where known.
        machine: Where known.
        provenance: Whether the frames are real, derived or synthetic.
        origin: Where sources are joined, the name of the data and the name that they have for the patient.
    """

    video_id: str
    path: str
    frames: int
    reader: FrameReader = field(repr=False)
    key: str = ""
    fps: float | None = None
    patient: str | None = None
    machine: str | None = None
    provenance: Provenance = "real"
    origin: tuple[str, str] = ("", "")

    def read(self, frame: int) -> np.ndarray:
        """``(H, W)`` or ``(H, W, 3)`` uint8.

        Raises:
            UsageError: The file cannot be read, or its frame is of another kind.
            IndexError: There is no such frame.
        """
        if not 0 <= frame < self.frames:
            raise IndexError(f"clip {self.video_id} has frames 0 to {self.frames - 1}, not {frame}")
        picture = self.reader.read(self, frame)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
            raise UsageError(
                f"data.source: frames must be uint8 of shape (H, W) or (H, W, 3), frame {frame} of {self.path} is "
                f"{picture.dtype} of shape {picture.shape}"
            )
        return picture


@dataclass(frozen=True)
class ClipSets:
    """What a source holds.

    Attributes:
        name: What the data are called.
        train: To pretrain on.
        validation: To watch the loss on; may be empty.
    """

    name: str
    train: tuple[Clip, ...]
    validation: tuple[Clip, ...] = ()


class VideoSource(ABC):
    """A place that clips are read from. Building one touches no file; :meth:`load` does."""

    @abstractmethod
    def load(self) -> ClipSets:
        """Find and check everything.

        Raises:
            UsageError: Something is missing, unreadable or contradictory.
        """


class Joined(VideoSource):
    """Several sources as one; names of clips and patients are kept apart by the number of their source.

    Args:
        sources: At least one.
    """

    def __init__(self, sources: Sequence[VideoSource]) -> None:
        if not sources:
            raise UsageError("data.source.sources must name at least one source, got none")
        self.sources = list(sources)

    def load(self) -> ClipSets:
        sets = [source.load() for source in self.sources]
        return ClipSets(
            name=" + ".join(part.name for part in sets),
            train=tuple(_renamed(clip, n, part.name) for n, part in enumerate(sets) for clip in part.train),
            validation=tuple(_renamed(clip, n, part.name) for n, part in enumerate(sets) for clip in part.validation),
        )


def _renamed(clip: Clip, number: int, name: str) -> Clip:
    origin = clip.origin if any(clip.origin) else (name, clip.patient or "")
    patient = None if clip.patient is None else f"{number}/{clip.patient}"
    return replace(clip, video_id=f"{number}/{clip.video_id}", patient=patient, origin=origin)


class ArrayReader(FrameReader):
    """Clips in arrays: in memory, or in an ``.npy`` file that is mapped on first use.

    Args:
        arrays: ``(T, H, W)`` or ``(T, H, W, 3)`` uint8 by key; without them a clip's ``path`` names its file, and its
            ``key`` the first row there.
    """

    def __init__(self, arrays: dict[str, np.ndarray] | None = None) -> None:
        self._arrays = arrays
        self._mapped: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # a pickled memory map would carry all of its bytes

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        if self._arrays is not None:
            return self._arrays[clip.key][frame]
        if clip.path not in self._mapped:
            try:
                self._mapped[clip.path] = np.load(clip.path, mmap_mode="r", allow_pickle=False)
            except Exception as error:  # the parser of headers has errors of its own
                raise UsageError(f"the cache must hold readable files, {clip.path} is damaged: delete it") from error
        return np.array(self._mapped[clip.path][int(clip.key or 0) + frame])


def provenance_of(clips: Sequence[Clip]) -> Provenance:
    """The least real kind that occurs."""
    kinds = {clip.provenance for clip in clips}
    order: tuple[Provenance, ...] = ("synthetic", "derived", "real")
    return next((kind for kind in order if kind in kinds), "real")
