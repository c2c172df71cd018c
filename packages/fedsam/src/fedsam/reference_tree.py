"""The processed data of FLAP-SAM's reference code: pickled windows in folders per site. For conversion only.

A pickle can run any code when it is opened. These are opened by a reader that can build NumPy arrays of numbers and
nothing else, and only when the user asks for the conversion.
"""

import csv
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedsam.readers.nifti import class_map
from fedsam.volumes import MIN_SLICES, Case, Split, Volume, VolumeSets, VolumeSource
from fedsam.windows import SLICES, anti_transpose
from shared.data.sources import existing
from shared.errors import UsageError

_PREFIX = "2D_all_5slice_site"


def _latin1(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell bytes; other encodings are refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


def _array_parts() -> dict[tuple[str, str], Any]:
    from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]
    from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

    parts: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core", "numpy._core"):
        parts[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        parts[f"{core}.numeric", "_frombuffer"] = _frombuffer
    return parts


class ArrayUnpickler(pickle.Unpickler):
    """Opens a pickle that holds one NumPy array of numbers; asks for anything else end it."""

    _parts = _array_parts()

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array is made of."""
        if (module, name) not in self._parts:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._parts[module, name]


def read_pickled_array(path: Path) -> np.ndarray:
    """One array of numbers from a pickle.

    Raises:
        UsageError: The file is missing or damaged, or holds or asks for anything but such an array.
    """
    with existing(path, "prepare --root: a pickled window", "file").open("rb") as stream:
        found = _unpickled(stream, path)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        kind = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
        raise UsageError(f"prepare --root: pickles must hold a plain array of numbers, {path} holds {kind}")
    return found


def _unpickled(stream: BinaryIO, path: Path) -> Any:
    try:
        return ArrayUnpickler(stream).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise UsageError(
            f"prepare --root: pickles must hold a plain array of numbers, {path} is refused ({error})"
        ) from error


@dataclass(frozen=True, kw_only=True)
class ReferenceCase(Case):
    """One case of the tree: the middle slices of its windows, turned back.

    Attributes:
        windows: Image and mask file of each slice, in order.
        classes: Class number of each value that masks may hold.
    """

    windows: tuple[tuple[Path, Path], ...]
    classes: Mapping[int, int]

    def read(self) -> Volume:
        if len(self.windows) < MIN_SLICES:
            raise UsageError(
                f"prepare --root: a case must have at least {MIN_SLICES} slices, {self.case} has {len(self.windows)}"
            )
        images, labels = [], []
        for image_path, label_path in self.windows:
            image, label = read_pickled_array(image_path), read_pickled_array(label_path)
            for path, array in ((image_path, image), (label_path, label)):
                if array.ndim != 3 or array.shape[2] != SLICES or array.shape != image.shape:
                    raise UsageError(
                        f"prepare --root: windows must be arrays (H, W, {SLICES}), the same for image and mask, "
                        f"{path} has {array.shape}"
                    )
            images.append(anti_transpose(image[..., SLICES // 2].astype(np.float32)))
            labels.append(class_map(anti_transpose(label[..., SLICES // 2]), self.classes, label_path))
        if len({image.shape for image in images}) != 1:
            raise UsageError(f"prepare --root: the slices of a case must have one size, {self.case} has several")
        # Spacing and position were not kept: the file says 1 mm, and has its slices last.
        native = np.eye(4)
        return Volume(
            image=np.stack(images),
            label=np.stack(labels),
            spacing=np.ones(3),
            site=self.site,
            case=self.case,
            provenance=self.provenance,
            affine=native[:, [2, 0, 1, 3]],
            native_affine=native,
        )

    def fingerprint(self) -> dict[str, Any]:
        return {"windows": [[str(path) for path in pair] for pair in self.windows]}


class ReferenceTree(VolumeSource):
    """``2D_all_5slice_siteX/CASE/images/2Dimage_0000.pkl``, ``…/masks/2Dmask_0000.pkl`` and ``training.csv, test.csv``.

    The lists have the columns ``image_pth`` and ``mask_pth``, relative to the site's folder. The reference's
    validation list repeats test cases and is not read.

    Args:
        root: The folder that holds the sites'.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def load(self) -> VolumeSets:
        root = existing(self.root, "prepare --root", "folder").expanduser()
        sites = sorted(path for path in root.glob(f"{_PREFIX}*") if path.is_dir())
        if not sites:
            raise UsageError(f"prepare --root must hold folders called {_PREFIX}…, {root} has none")
        cases: dict[Split, list[ReferenceCase]] = {"train": [], "validation": [], "test": []}
        largest = 0
        for site in sites:
            for split, file in (("train", "training.csv"), ("test", "test.csv")):
                found = _windows_of_cases(site, site / file)
                for name, windows in found.items():
                    largest = max(largest, *(int(read_pickled_array(mask).max()) for _, mask in windows))
                    cases[split].append(  # type: ignore[index]
                        ReferenceCase(
                            site=f"site-{site.name.removeprefix(_PREFIX)}",
                            case=name,
                            windows=tuple(windows),
                            classes={value: value for value in range(256)},
                        )
                    )
        names = ("background", *(f"class {number}" for number in range(1, max(largest, 1) + 1)))
        return VolumeSets(root.name, names, cases["train"], (), cases["test"])


def _windows_of_cases(site: Path, table: Path) -> dict[str, list[tuple[Path, Path]]]:
    """Image and mask file of each slice, by case, in order of the slices' numbers."""
    with existing(table, "prepare --root: the list of a site", "file").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    cases: dict[str, list[tuple[Path, Path]]] = {}
    for row in rows:
        if not row.get("image_pth") or not row.get("mask_pth"):
            raise UsageError(f"prepare --root: lists must have the columns image_pth and mask_pth, {table} lacks one")
        image, mask = site / row["image_pth"], site / row["mask_pth"]
        cases.setdefault(image.parents[1].name, []).append((image, mask))
    return {name: sorted(windows) for name, windows in cases.items()}
