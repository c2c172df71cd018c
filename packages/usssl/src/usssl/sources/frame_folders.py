"""Folders of pictures, one folder per video."""

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from shared.data.labelled_images import read_image
from shared.errors import UsageError
from usssl.sources.clips import Clip, FileReader

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts numbers inside names by value.

    Example:
        >>> sorted(["f10", "f9", "f1"], key=natural_key)
        ['f1', 'f9', 'f10']
    """
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


def frame_files(folder: Path) -> list[Path]:
    """The pictures directly in a folder, in natural order."""
    return sorted(
        (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")),
        key=lambda file: natural_key(file.name),
    )


@lru_cache(maxsize=4096)
def _names(folder: str) -> tuple[str, ...]:
    return tuple(file.name for file in frame_files(Path(folder)))


class FrameFolderReader(FileReader):
    """Frames are the pictures of a folder in natural order; their number and names are listed once."""

    def probe(self, folder: Path) -> list[Clip]:
        """The folder as a clip; none if it holds no picture itself."""
        frames = frame_files(folder)
        return [Clip(video_id=folder.name, path=str(folder), frames=len(frames), reader=self)] if frames else []

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        names = _names(clip.path)
        if len(names) <= frame:
            raise UsageError(f"data.source.root: {clip.path} must hold {clip.frames} frames, it has {len(names)}")
        picture = read_image(Path(clip.path) / names[frame])
        return picture[..., 0] if picture.shape[2] == 1 else picture
