"""NumPy archives of labelled images, in the three layouts that are common."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages, Provenance
from shared.data.sources import ImageSets, Source, existing, named_classes
from shared.data.split_names import rows_by_split
from shared.errors import UsageError


class Npz(Source):
    """One or two ``.npz`` files, in one of these layouts.

    - one file with ``x_train, y_train, x_test, y_test``;
    - one file for training and one for testing, each with images and labels;
    - one file with images and labels, and perhaps a column that says ``train``, ``val`` or ``test`` of each row.

    Args:
        path: The file, or the training file.
        test: The test file of the second layout.
        images: Key of the images: uint8 ``(N, H, W)`` or ``(N, H, W, C)``.
        labels: Key of the integer labels.
        split: Key of the column of the third layout; looked up only if the archive has it.
        columns: Keys of further ``(N,)`` arrays to keep (patient, center …); with ``x_train`` they are called
            ``NAME_train`` and ``NAME_test``.
        class_names: Names of the classes; without them the archive's ``class_names``, else the numbers that occur.
        name: What the set is called; without it the file's name.
        provenance: Whether the pictures are real, derived or synthetic.

    Attributes:
        option: The option that names the file, for error messages; readers of one published file have another.
    """

    option = "data.source.path"

    def __init__(
        self,
        path: str | Path,
        test: str | Path | None = None,
        images: str = "images",
        labels: str = "labels",
        split: str = "split",
        columns: Sequence[str] = (),
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        self.path = Path(path)
        self.test = None if test is None else Path(test)
        self.images, self.labels, self.split = images, labels, split
        self.columns = tuple(columns)
        self.class_names = class_names
        self.name = name if name is not None else self.path.stem
        self.provenance: Provenance = provenance

    def load(self) -> ImageSets:
        wanted = {self.images, self.labels, self.split, *self.columns}
        paired = {f"{key}_{part}" for key in ("x", "y", *self.columns) for part in ("train", "test")}
        arrays = read_npz(self.path, wanted | paired | {"class_names"}, self.option)
        declared = self.class_names
        if declared is None and "class_names" in arrays:
            declared = [str(name) for name in arrays["class_names"]]
        parts: dict[str, Mapping[str, np.ndarray]]
        if "x_train" in arrays:
            parts = {part: self._suffixed(arrays, part) for part in ("train", "test")}
        elif self.test is not None:
            parts = {"train": arrays, "test": read_npz(self.test, wanted, "data.source.test")}
        elif self.split in arrays:
            parts = self._by_column(arrays)
        else:
            parts = {"train": arrays}
        classes = named_classes(self._array(parts["train"], self.labels), declared, f"{self.name} train")
        sets = {part: self._labelled(part, values, classes) for part, values in parts.items()}
        return ImageSets(**sets)

    def _labelled(self, part: str, arrays: Mapping[str, np.ndarray], classes: Sequence[str]) -> LabelledImages:
        return LabelledImages(
            self._array(arrays, self.images),
            self._array(arrays, self.labels),
            classes,
            name=f"{self.name} {part}",
            provenance=self.provenance,
            columns={key: self._array(arrays, key) for key in self.columns},
        )

    def _array(self, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
        if key not in arrays:
            raise UsageError(
                f"{self.option} must be an archive with the array {key!r} (or x_train, y_train, x_test, y_test), "
                f"{self.path.name} has {', '.join(arrays) or 'none of those asked for'}"
            )
        return arrays[key]

    def _suffixed(self, arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
        renamed = {self.images: f"x_{part}", self.labels: f"y_{part}"} | {c: f"{c}_{part}" for c in self.columns}
        return {key: self._array(arrays, stored) for key, stored in renamed.items()}

    def _by_column(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Mapping[str, np.ndarray]]:
        split = arrays[self.split]
        rows = rows_by_split([str(value) for value in split], f"{self.path.name}, array {self.split!r}")
        used = {key: self._array(arrays, key) for key in (self.images, self.labels, *self.columns)}
        for key, values in used.items():
            if len(values) != len(split):
                raise UsageError(
                    f"{self.option}: the arrays of {self.path.name} must have equal lengths, "
                    f"{key!r} has {len(values)} and {self.split!r} {len(split)}"
                )
        return {part: {key: values[index] for key, values in used.items()} for part, index in rows.items()}


def read_npz(path: Path, keys: set[str], option: str) -> dict[str, np.ndarray]:
    """Those of ``keys`` that the archive holds; the other arrays are not decompressed.

    Raises:
        UsageError: The file is missing, no ``.npz`` archive, or an array needs pickle.
    """
    try:
        with existing(path, option, "file").open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files if key in keys}
    except UsageError:
        raise
    except Exception as error:  # archives, headers and compressed data have errors of their own
        why = "" if "pickle" in str(error) else f" ({error})"  # NumPy takes any other file for a pickle
        raise UsageError(f"{option} must be a readable .npz archive of plain arrays, got {path}{why}") from error
