"""HDF5: one file per split, one dataset per video, as the paper's data were stored."""

from pathlib import Path

import h5py
import numpy as np

from shared.errors import UsageError
from usssl.sources.clips import Clip, FileReader
from usssl.sources.open_files import OpenFiles


class Hdf5Reader(FileReader):
    """Datasets ``(T, H, W)`` or ``(T, H, W, 3)`` uint8, read a frame at a time.

    An attribute ``fps``, ``patient_id`` or ``machine`` of a dataset is used where it is there.
    """

    def __init__(self) -> None:
        self._files: OpenFiles[h5py.File] = OpenFiles(lambda path: h5py.File(path, "r"), lambda file: file.close())

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]

    def probe(self, path: Path) -> list[Clip]:
        """The videos of a file, in natural order of their keys.

        Raises:
            UsageError: The file is no HDF5, or holds something else than videos.
        """
        found: dict[str, h5py.Dataset] = {}

        def visit(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item

        try:
            with h5py.File(path, "r") as file:
                file.visititems(visit)
                return [self._clip(path, name, found[name]) for name in sorted(found)]
        except UsageError:
            raise
        except Exception as error:  # h5py raises many types for what HDF5 finds wrong
            raise UsageError(f"data.source.root: every video must be readable, {path} is not ({error})") from error

    def _clip(self, path: Path, name: str, data: h5py.Dataset) -> Clip:
        shape = data.shape
        if data.dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape:
            raise UsageError(
                f"data.source.root: a video in HDF5 must be uint8 of shape (T, H, W) or (T, H, W, 3), "
                f"{name} of {path} is {data.dtype} of shape {shape}"
            )
        known = {key: data.attrs.get(key) for key in ("fps", "patient_id", "machine")}
        return Clip(
            video_id=name,
            path=str(path),
            frames=shape[0],
            reader=self,
            key=name,
            fps=None if known["fps"] is None else float(known["fps"]),
            patient=None if known["patient_id"] is None else str(known["patient_id"]),
            machine=None if known["machine"] is None else str(known["machine"]),
        )

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        try:
            return np.asarray(self._files(clip.path)[clip.key][frame])
        except Exception as error:  # as above
            raise UsageError(
                f"data.source.root: every video must be readable, frame {frame} of {clip.key} in {clip.path} is not "
                f"({error})"
            ) from error
