"""A DICOM series as a volume. Needs pydicom, which fedsam does not install."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsam.intensity import Normalisation, Percentiles
from fedsam.readers.nifti import class_map, grid_distance, read_grid
from fedsam.volumes import MIN_SLICES, Case, Volume
from shared.errors import UsageError

NEEDED = ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "PixelData")
"""What every slice must say of itself."""


def read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The slices of one series, sorted along their common normal, rescaled (to HU in CT).

    Args:
        folder: Holds the files of one series and nothing else of DICOM's.

    Returns:
        ``(Z, H, W)`` float32, and the ``(4, 4)`` affine of its axes to NIfTI's millimetres (right, front, up).

    Raises:
        UsageError: pydicom is missing, there is no series or more than one, a file is damaged, or slices are missing or
            differ in shape.
    """
    read = (_slice(path) for path in sorted(path for path in folder.iterdir() if path.is_file()))
    slices = [one for one in read if one is not None]
    series = {one.series for one in slices}
    if not series:
        raise UsageError(f"data.source: a folder must hold NIfTI files or one DICOM series, {folder} has neither")
    if len(series) > 1:
        raise UsageError(f"data.source: a folder must hold one DICOM series, {folder} has {len(series)}")
    shapes = {one.values.shape for one in slices}
    if len(shapes) != 1:
        raise UsageError(f"data.source: slices of a series must have one size, {folder} has {sorted(shapes)}")
    right, down = slices[0].orientation
    normal = np.cross(right, down)
    slices.sort(key=lambda one: float(normal @ one.position))
    steps = np.diff([normal @ one.position for one in slices])
    if len(steps) and steps.max() - steps.min() > 0.1 * np.median(steps) + 1e-3:
        raise UsageError(
            f"data.source: slices of a series must be equally far apart, "
            f"{folder} has {steps.min():g} to {steps.max():g} mm"
        )
    between_rows, between_columns = slices[0].spacing
    affine = np.eye(4)
    step = float(np.mean(steps)) if len(steps) else 1.0
    affine[:3] = np.stack(
        [normal * step, down * between_rows, right * between_columns, slices[0].position],
        axis=1,
    )
    # DICOM counts to the left and to the back.
    return np.stack([one.values for one in slices]), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


class _Slice(NamedTuple):
    """What a volume needs of a file, read and checked."""

    series: str
    values: np.ndarray
    """``(H, W)`` float32, rescaled."""
    orientation: np.ndarray
    """``(2, 3)``: directions in which columns and rows are counted."""
    position: np.ndarray
    """``(3,)`` mm, of the first voxel."""
    spacing: np.ndarray
    """``(2,)`` mm between rows and between columns."""


def _slice(path: Path) -> _Slice | None:
    """The slice of a file; ``None`` where it is no DICOM."""
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise UsageError(
            f"data.source: a DICOM series needs the package pydicom (pip install pydicom), got {path.parent}"
        ) from error
    try:
        scan = pydicom.dcmread(path)
        lacking = [name for name in NEEDED if scan.get(name) is None]
        if lacking:
            raise UsageError(
                f"data.source: every slice of a series must say its {', '.join(NEEDED)}, {path} lacks "
                f"{', '.join(lacking)}"
            )
        slope, intercept = float(scan.get("RescaleSlope") or 1), float(scan.get("RescaleIntercept") or 0)
        return _Slice(
            str(scan.get("SeriesInstanceUID")),
            scan.pixel_array.astype(np.float32) * slope + intercept,
            np.array(scan.ImageOrientationPatient, dtype=float).reshape(2, 3),
            np.array(scan.ImagePositionPatient, dtype=float).reshape(3),
            np.array(scan.PixelSpacing, dtype=float).reshape(2),
        )
    except InvalidDicomError:
        return None
    except UsageError:
        raise
    except Exception as error:  # parsers and decoders of many libraries, each with errors of its own
        raise UsageError(f"data.source: every slice of a series must be readable, {path} is not ({error})") from error


@dataclass(frozen=True, kw_only=True)
class DicomCase(Case):
    """A DICOM series, and its mask as a NIfTI file on the same grid.

    Attributes:
        series: The folder.
        label: The mask; ``None`` where there is none.
        classes: Class number of each value that the mask may hold.
        normalisation: Of the whole volume.
        tolerance: How far in mm series and mask may lie apart.
    """

    series: Path
    label: Path | None
    classes: Mapping[int, int] = field(default_factory=lambda: {0: 0, 1: 1})
    normalisation: Normalisation = Percentiles()  # noqa: RUF009 - frozen
    tolerance: float = 0.5

    def read(self) -> Volume:
        image, affine = read_series(self.series)
        if len(image) < MIN_SLICES:
            raise UsageError(
                f"data.source: a scan must have at least {MIN_SLICES} slices, {self.series} has {len(image)}"
            )
        label = None
        if self.label is not None:
            from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

            values, label_affine = read_grid(self.label)
            turn = io_orientation(np.linalg.inv(affine) @ label_affine)
            label_affine = label_affine @ inv_ornt_aff(turn, values.shape)
            values = apply_orientation(values, turn)
            if values.shape != image.shape:
                raise UsageError(
                    f"data.source: scan and mask must have the same shape, "
                    f"{self.series} has {image.shape} and {self.label} {values.shape}"
                )
            apart = grid_distance(image.shape, affine, label_affine)
            if apart > self.tolerance:
                raise UsageError(
                    f"data.source: scan and mask must lie on the same grid (within data.source.tolerance "
                    f"{self.tolerance:g} mm), {self.label} lies {apart:.3g} mm away from {self.series}"
                )
            label = class_map(values, self.classes, self.label)
        return Volume(
            image=self.normalisation(image),
            label=label,
            spacing=np.linalg.norm(affine[:3, :3], axis=0),
            site=self.site,
            case=self.case,
            provenance=self.provenance,
            affine=affine,
            native_affine=affine,
        )

    def fingerprint(self) -> dict[str, Any]:
        files = [
            *sorted(path for path in self.series.iterdir() if path.is_file()),
            *([self.label] if self.label else []),
        ]
        return {
            "files": [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files],
            "classes": sorted(self.classes.items()),
            "normalisation": [type(self.normalisation).__name__, asdict(self.normalisation)],
            "tolerance": self.tolerance,
            "provenance": self.provenance,
        }
