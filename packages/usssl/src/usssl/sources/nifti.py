"""NIfTI sequences ``(H, W, T)``, as CAMUS has them; stored columns first, so pictures are turned upright."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from shared.errors import UsageError
from usssl.sources.clips import Clip, FileReader
from usssl.sources.open_files import OpenFiles

SUFFIXES = (".nii", ".nii.gz")


class NiftiReader(FileReader):
    """Frames of NIfTI files; a two-dimensional file is one frame.

    Values of other types than uint8 are scaled linearly from the smallest to the largest value of the sequence.

    Args:
        transpose: Swap the two axes of every frame: NIfTI counts columns first. ``False`` keeps the stored order.
    """

    def __init__(self, transpose: bool = True) -> None:
        self.transpose = transpose
        self._files: OpenFiles[np.ndarray] = OpenFiles(_sequence, lambda array: None, most=4)

    def __getstate__(self) -> dict[str, object]:
        return {"transpose": self.transpose}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def probe(self, path: Path) -> list[Clip]:
        """The file as a clip.

        Raises:
            UsageError: The file is no NIfTI, or no sequence of pictures.
        """
        image = _loaded(path)
        shape = tuple(image.shape)
        frames = _frames(shape, path)
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        time = float(image.header.get_zooms()[2]) if len(shape) > 2 else 0.0
        unit = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(image.header.get_xyzt_units()[1])
        # Only where the file says that its third axis is time; CAMUS leaves the unit out.
        fps = 1 / (time * unit) if unit and time > 0 else None
        return [Clip(video_id=name, path=str(path), frames=frames, reader=self, fps=fps)]

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        picture = self._files(clip.path)[..., frame]
        return np.ascontiguousarray(picture.T if self.transpose else picture)


def _loaded(path: Path) -> Any:
    try:
        return nibabel.load(path)
    except Exception as error:  # headers and affines have errors of their own
        raise UsageError(f"data.source.root: every NIfTI file must be readable, {path} is not ({error})") from error


def _frames(shape: tuple[int, ...], path: Path | str) -> int:
    squeezed = shape[:2] + tuple(n for n in shape[2:] if n != 1)
    if len(shape) < 2 or len(squeezed) > 3 or 0 in shape:
        raise UsageError(f"data.source.root: a NIfTI sequence must have shape (H, W, T), {path} has {shape}")
    return squeezed[2] if len(squeezed) == 3 else 1


def _sequence(path: str) -> np.ndarray:
    image = _loaded(Path(path))
    try:
        values = np.asanyarray(image.dataobj)
    except Exception as error:  # compressed data have errors of their own
        raise UsageError(f"data.source.root: every NIfTI file must be readable, {path} is not ({error})") from error
    values = values.reshape(*values.shape[:2], _frames(values.shape, path))
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    return np.rint(255 * (values.astype(np.float32) - low) / max(high - low, 1e-12)).astype(np.uint8)
