"""NIfTI scans with their masks: reading with every check, and writing back onto the grid of the file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, io_orientation

from fedsam.intensity import Normalisation, Percentiles
from fedsam.volumes import MIN_SLICES, Case, Volume
from shared.errors import UsageError

SUFFIXES = (".nii.gz", ".nii")


def stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    return next((path.name[: -len(suffix)] for suffix in SUFFIXES if path.name.endswith(suffix)), path.stem)


def scans_in(folder: Path) -> list[Path]:
    """The NIfTI files of a folder, sorted; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))


def read_grid(path: Path, channel: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decode one file.

    Args:
        path: NIfTI.
        channel: Which one to take of a file with a fourth axis.

    Returns:
        ``(I, J, K)`` float32 in the file's own axes, and the ``(4, 4)`` affine.

    Raises:
        UsageError: It is missing, damaged, not three-dimensional, or holds NaN or infinite values.
    """
    if not path.is_file():
        raise UsageError(f"data.source: every scan and mask must exist, {path} does not")
    try:
        image: Any = nibabel.load(path)
        shape = image.shape
        if len(shape) == 4 and channel is not None:
            if not 0 <= channel < shape[3]:
                raise UsageError(f"data.source.channel must lie in 0..{shape[3] - 1}, {path} has no channel {channel}")
            values = np.asarray(image.dataobj[..., channel], dtype=np.float32)
        elif len(shape) != 3:
            hint = "; data.source.channel picks one of several" if len(shape) == 4 else ""
            raise UsageError(f"data.source: scans and masks must have 3 dimensions, {path} has shape {shape}{hint}")
        else:
            values = image.get_fdata(dtype=np.float32, caching="unchanged")
        affine = np.asarray(image.affine, dtype=np.float64)
    except UsageError:
        raise
    except Exception as error:  # headers, affines and compressed data have errors of their own
        raise UsageError(f"data.source: every scan and mask must be readable, {path} is not ({error})") from error
    if not np.isfinite(values).all():
        raise UsageError(f"data.source: scans and masks must hold finite values, {path} has NaN or infinity")
    return values, affine


def class_map(values: np.ndarray, classes: Mapping[int, int], path: Path) -> np.ndarray:
    """Stored label values as class numbers.

    Args:
        values: Whole numbers, perhaps stored as floats.
        classes: Class number of each known value.
        path: To name in messages.

    Returns:
        uint8 of the same shape.

    Raises:
        UsageError: A value is no whole number or not in the map.
    """
    rounded = np.rint(values)
    if np.abs(values - rounded).max(initial=0) > 1e-3:
        wrong = values[np.abs(values - rounded) > 1e-3][0]
        raise UsageError(f"data.source: labels must be whole numbers, {path} holds {wrong:g}")
    stored = np.unique(rounded)
    for value in stored.astype(np.int64).tolist():
        if value not in classes:
            raise UsageError(
                f"data.source.labels: labels must be one of {', '.join(map(str, classes))}, {path} holds {value}"
            )
    table = np.array([classes[int(value)] for value in stored], dtype=np.uint8)
    return table[np.searchsorted(stored, rounded)]


def grid_distance(shape: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> float:
    """The farthest in mm that two affines put a corner of the same array apart."""
    corners = np.array([[*corner, 1.0] for corner in product(*[(0, n - 1) for n in shape])])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


@dataclass(frozen=True, kw_only=True)
class NiftiCase(Case):
    """A scan in a NIfTI file, and its mask in another.

    Attributes:
        image: The scan.
        label: The mask; ``None`` where there is none.
        classes: Class number of each value that the mask may hold.
        clip_labels: Replace values above this one by it before ``classes`` is looked up.
        normalisation: Of the whole volume.
        slice_axis: Which of the file's axes counts slices.
        channel: Which channel of a four-dimensional scan.
        tolerance: How far in mm scan and mask may lie apart.
    """

    image: Path
    label: Path | None
    classes: Mapping[int, int] = field(default_factory=lambda: {0: 0, 1: 1})
    clip_labels: int | None = None
    normalisation: Normalisation = Percentiles()  # noqa: RUF009 - frozen
    slice_axis: int = 2
    channel: int | None = None
    tolerance: float = 0.5

    def read(self) -> Volume:
        image, affine = read_grid(self.image, self.channel)
        if image.shape[self.slice_axis] < MIN_SLICES:
            raise UsageError(
                f"data.source: a scan must have at least {MIN_SLICES} slices along data.source.slice_axis "
                f"{self.slice_axis}, {self.image} has shape {image.shape}"
            )
        label = None
        if self.label is not None:
            values, label_affine = read_grid(self.label)
            if values.shape != image.shape:
                raise UsageError(
                    f"data.source: scan and mask must have the same shape, "
                    f"{self.image} has {image.shape} and {self.label} {values.shape}"
                )
            apart = grid_distance(image.shape, affine, label_affine)
            if apart > self.tolerance:
                raise UsageError(
                    f"data.source: scan and mask must lie on the same grid (within data.source.tolerance "
                    f"{self.tolerance:g} mm), {self.label} lies {apart:.3g} mm away from {self.image}"
                )
            if self.clip_labels is not None:
                values = np.clip(values, 0, self.clip_labels)
            label = np.ascontiguousarray(np.moveaxis(class_map(values, self.classes, self.label), self.slice_axis, 0))
        order = [self.slice_axis, *(axis for axis in range(3) if axis != self.slice_axis)]
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        return Volume(
            image=np.ascontiguousarray(self.normalisation(image).transpose(order)),
            label=label,
            spacing=spacing[order],
            site=self.site,
            case=self.case,
            provenance=self.provenance,
            affine=affine[:, [*order, 3]],
            native_affine=affine,
        )

    def fingerprint(self) -> dict[str, Any]:
        files = {}
        for part, path in (("image", self.image), ("label", self.label)):
            if path is not None:
                if not path.is_file():
                    raise UsageError(f"data.source: every scan and mask must exist, {path} does not")
                status = path.stat()
                files[part] = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        return {
            "files": files,
            "classes": sorted(self.classes.items()),
            "clip_labels": self.clip_labels,
            "normalisation": [type(self.normalisation).__name__, asdict(self.normalisation)],
            "slice_axis": self.slice_axis,
            "channel": self.channel,
            "tolerance": self.tolerance,
            "provenance": self.provenance,
        }


def on_native_grid(values: np.ndarray, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Values of a volume's voxels on the grid of the file that it was read from.

    Args:
        values: ``(Z, H, W)`` on the grid of ``volume``.
        volume: Its affines say how the two grids lie: axes exchanged and turned round, nothing more.

    Returns:
        The values in the file's axes, and the file's affine; as they are where the affines are unknown.
    """
    if volume.affine is None or volume.native_affine is None:
        return values, np.eye(4) if volume.affine is None else volume.affine
    to_native = np.linalg.inv(volume.native_affine) @ volume.affine
    return np.asarray(apply_orientation(values, io_orientation(to_native))), volume.native_affine


def write_nifti(path: str | Path, values: np.ndarray, volume: Volume) -> Path:
    """Write a map of a volume's voxels (predicted classes, say) onto the grid of the volume's file.

    Args:
        path: ``.nii.gz`` or ``.nii``; its folder is made.
        values: ``(Z, H, W)``, any real type; int64 and bool are stored as uint8 where they fit.
        volume: Where the values belong.

    Raises:
        UsageError: Another shape than the volume's.
    """
    if values.shape != volume.image.shape:
        raise UsageError(f"a map of {volume.case} must have shape {volume.image.shape}, got {values.shape}")
    if values.dtype == bool or (values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255):
        values = values.astype(np.uint8)
    native, affine = on_native_grid(values, volume)
    image = nibabel.Nifti1Image(np.ascontiguousarray(native), affine)
    image.header.set_xyzt_units("mm")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = next(suffix for suffix in (*SUFFIXES, "") if target.name.endswith(suffix)) or ".nii.gz"
    temporary = target.with_name(f".{uuid4().hex}{suffix}")
    try:
        nibabel.save(image, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
