"""A labelled image set: 8-bit pictures in memory or in files, their classes, and whatever else is known of each."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from shared.errors import UsageError

Provenance = Literal["real", "derived", "synthetic"]
Pixels = np.ndarray | list[np.ndarray]
"""``(B, H, W, C)`` uint8, or ``B`` arrays ``(H, W, C)`` where the sizes may differ."""

_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "PA", "RGBX")


def read_image(path: str | Path | bytes) -> np.ndarray:
    """Decode one picture.

    Args:
        path: Its file, or the content of one.

    Returns:
        ``(H, W, C)`` uint8; C = 1 for grey files, 3 for all others. Transparency is dropped.

    Raises:
        UsageError: The file is missing, damaged or not a picture, or has more than 8 bits per channel.
    """
    try:
        with Image.open(BytesIO(path) if isinstance(path, bytes) else path) as picture:
            mode = picture.mode
            if mode in _GREY_MODES:
                return np.array(picture.convert("L"))[..., None]
            if mode in _COLOUR_MODES:
                return np.array(picture.convert("RGB"))
    except UnidentifiedImageError as error:  # whose message names the file once more
        raise UsageError(f"data.source: every image must be readable, but {_told(path)} is not (no image)") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # a damaged PNG is a SyntaxError in Pillow
        raise UsageError(f"data.source: every image must be readable, but {_told(path)} is not ({error})") from error
    # Pillow would clip 16-bit values to 255 without a word.
    raise UsageError(f"data.source: images must have 8 bits per channel, but {_told(path)} has mode {mode}")


def _told(path: str | Path | bytes) -> str:
    return f"one of {len(path):,} bytes" if isinstance(path, bytes) else str(path)


class LabelledImages(Dataset[tuple[np.ndarray, int]]):
    """N labelled pictures. Subsets share the pixels of the set they were taken from.

    Args:
        images: ``(N, H, W)`` or ``(N, H, W, C)`` uint8 with C = 1 or 3, or N paths, or the contents of N picture
            files, that are decoded on each access.
        labels: ``(N,)`` integers in ``0 .. len(class_names) - 1``.
        class_names: Name of each class; a class may have no picture.
        name: What the set is called in messages and results.
        provenance: Whether the pictures are real, derived from real ones, or synthetic.
        columns: More facts of each picture by name (patient, center, fold): ``(N,)`` arrays.

    Raises:
        UsageError: No pictures, another type or shape, unequal counts, or a label out of range.
    """

    def __init__(
        self,
        images: np.ndarray | Sequence[str | Path] | Sequence[bytes],
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        name: str,
        provenance: Provenance = "real",
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        if isinstance(images, np.ndarray):
            store = _checked_pixels(images, name)
        elif images and isinstance(images[0], bytes):
            store = np.empty(len(images), dtype=object)
            store[:] = images
        else:
            # One fixed-width array: loader workers then share its memory instead of copying N objects.
            store = np.array([str(path) for path in images], dtype=np.str_)
        if len(store) == 0:
            raise UsageError(f"data.source: {name} must hold at least one image, got none")
        self.name = name
        self.provenance: Provenance = provenance
        self.class_names = tuple(class_names)
        self.labels = checked_labels(labels, len(self.class_names), name)
        self.columns = {key: np.asarray(values) for key, values in (columns or {}).items()}
        for key, values in {"labels": self.labels, **self.columns}.items():
            if values.shape != (len(store),):
                raise UsageError(
                    f"data.source: {name} must hold one value of {key} per image, "
                    f"got shape {values.shape} for {len(store)} images"
                )
        self._store = store
        self._rows = np.arange(len(store))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels([index])[0], int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[np.ndarray, int]]:
        return list(zip(self.pixels(indices), self.labels[indices].tolist(), strict=True))

    @property
    def in_memory(self) -> bool:
        """Whether the pixels are held in one array, so that all pictures have one size."""
        return self._store.dtype == np.uint8

    @property
    def files(self) -> list[str]:
        """The path of every picture; none where the pictures are in memory, decoded or not."""
        return self._store[self._rows].tolist() if self._store.dtype.kind == "U" else []

    def pixels(self, indices: Sequence[int] | np.ndarray) -> Pixels:
        """The pictures at ``indices``: one copy out of memory, or decoded one by one."""
        stored = self._store[self._rows[indices]]
        return stored if self.in_memory else [read_image(path) for path in stored]

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The set restricted to ``indices``, in that order, without copying pixels."""
        part = object.__new__(LabelledImages)
        part.name, part.provenance, part.class_names = self.name, self.provenance, self.class_names
        part.labels = self.labels[indices]
        part.columns = {key: values[indices] for key, values in self.columns.items()}
        part._store, part._rows = self._store, self._rows[indices]
        return part

    def class_counts(self) -> np.ndarray:
        """``(classes,)`` int64: pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def checked_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Labels as ``(N,)`` int64.

    Raises:
        UsageError: They are no integers, or one is outside ``0 .. classes - 1``; ``where`` and the row are named.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UsageError(
            f"data.source: labels must be one integer per image, {where} has {labels.dtype} of shape {labels.shape}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise UsageError(
            f"data.source: labels must lie in 0..{classes - 1} ({classes} classes), "
            f"{where} holds {labels[wrong[0]]} in row {wrong[0]}"
        )
    return labels.astype(np.int64)


def _checked_pixels(images: np.ndarray, name: str) -> np.ndarray:
    stacked = images[..., None] if images.ndim == 3 else images
    if stacked.dtype != np.uint8 or stacked.ndim != 4 or stacked.shape[-1] not in (1, 3) or 0 in stacked.shape[1:]:
        raise UsageError(
            f"data.source: images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"{name} has {images.dtype} of shape {images.shape}"
        )
    return stacked
