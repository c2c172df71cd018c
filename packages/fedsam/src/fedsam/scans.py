"""Scans without masks, to be segmented."""

from collections.abc import Sequence
from pathlib import Path

from fedsam.intensity import Normalisation, Percentiles
from fedsam.readers.dicom import DicomCase
from fedsam.readers.nifti import SUFFIXES, NiftiCase, scans_in, stem
from fedsam.volumes import Case
from shared.errors import UsageError

SITE = "scans"


def scans_at(
    places: Sequence[str | Path],
    normalisation: Normalisation | None = None,
    slice_axis: int = 2,
    channel: int | None = None,
) -> list[Case]:
    """The scans at some places.

    Args:
        places: Each a NIfTI file, a folder of NIfTI files, or a folder with the files of one DICOM series.
        normalisation: Of the whole volume, as in training; by default between the percentiles 1 and 99.
        slice_axis: Which of a NIfTI file's axes counts slices.
        channel: Which channel of a four-dimensional scan.

    Raises:
        UsageError: A place does not exist or is no scan, or two scans have one name.
    """
    normalisation = normalisation or Percentiles()
    found: dict[str, Case] = {}
    for place in map(Path, places):
        if not place.exists():
            raise UsageError(f"--scans must name existing files or folders, got {place}")
        files = scans_in(place) if place.is_dir() else [place]
        if place.is_file() and not place.name.endswith(SUFFIXES):
            raise UsageError(f"--scans must name files that end in {' or '.join(SUFFIXES)}, got {place}")
        cases: list[Case] = [
            NiftiCase(
                site=SITE,
                case=stem(file),
                image=file,
                label=None,
                normalisation=normalisation,
                slice_axis=slice_axis,
                channel=channel,
            )
            for file in files
        ] or [DicomCase(site=SITE, case=place.name, series=place, label=None, normalisation=normalisation)]
        for case in cases:
            if case.case in found:
                raise UsageError(f"--scans must name scans of different names, got {case.case} twice")
            found[case.case] = case
    return list(found.values())
