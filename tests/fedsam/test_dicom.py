"""DICOM series, where pydicom is installed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from fedsam.cli import main
from fedsam.intensity import Percentiles, Unchanged
from fedsam.readers.dicom import DicomCase, read_series
from fedsam.scan_reading import ScanReading
from fedsam.trained import Trained, save_merged
from shared.errors import UsageError

pydicom = pytest.importorskip("pydicom")


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Six slices of 7 x 9 voxels, 3 mm apart, in files whose names say nothing of their order."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder, uid = tmp_path / "series", generate_uid(entropy_srcs=["series"])
    folder.mkdir()
    for name, z in enumerate([3, 0, 5, 1, 4, 2]):
        scan = Dataset()
        scan.file_meta = FileMetaDataset()
        scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        scan.file_meta.MediaStorageSOPClassUID = scan.SOPClassUID = CTImageStorage
        scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID = generate_uid(entropy_srcs=[str(z)])
        scan.SeriesInstanceUID = uid
        scan.Rows, scan.Columns, scan.PixelSpacing = 7, 9, [0.5, 0.8]
        scan.ImageOrientationPatient, scan.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -20, 30 + 3 * z]
        scan.SamplesPerPixel, scan.PhotometricInterpretation = 1, "MONOCHROME2"
        scan.BitsAllocated, scan.BitsStored, scan.HighBit, scan.PixelRepresentation = 16, 16, 15, 0
        scan.RescaleSlope, scan.RescaleIntercept = 2, -1024
        scan.PixelData = (np.arange(63, dtype=np.uint16).reshape(7, 9) + 100 * z).tobytes()
        scan.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def test_a_series_is_sorted_and_rescaled(series: Path) -> None:
    image, affine = read_series(series)
    expected = np.arange(63).reshape(1, 7, 9) + 100 * np.arange(6)[:, None, None]
    np.testing.assert_array_equal(image, 2 * expected - 1024)
    # Index (z, row, column) to right, front, up: DICOM's first two directions turned round.
    np.testing.assert_allclose(affine @ [2, 3, 4, 1], [10 - 4 * 0.8, 20 - 3 * 0.5, 30 + 2 * 3, 1])


def test_a_mask_is_brought_onto_the_grid_of_the_series(
    series: Path, tmp_path: Path, write_scan: Callable[..., Path]
) -> None:
    mask = np.zeros((6, 7, 9), np.uint8)
    mask[1, 2, 3] = 1
    _, affine = read_series(series)
    turned = mask.transpose(2, 1, 0)[::-1]  # columns backwards, rows, slices
    back = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 8], [0, 0, 0, 1.0]])
    case = DicomCase(
        site="s",
        case="c",
        series=series,
        label=write_scan(tmp_path / "m.nii.gz", turned, affine @ back),
        normalisation=Unchanged(),
    )
    volume = case.read()
    np.testing.assert_array_equal(volume.label, mask)
    assert volume.spacing.tolist() == pytest.approx([3, 0.5, 0.8])
    assert case.fingerprint() == case.fingerprint()


def test_gaps_and_strangers_are_told(series: Path, tmp_path: Path) -> None:
    (series / "3.dcm").unlink()
    with pytest.raises(UsageError, match=r"must be equally far apart, .*series has 3 to 6 mm"):
        read_series(series)
    other = pydicom.dcmread(series / "1.dcm")
    other.Rows, other.PixelData = 6, other.PixelData[: 6 * 9 * 2]
    other.save_as(series / "1.dcm", enforce_file_format=True)
    with pytest.raises(UsageError, match=r"slices of a series must have one size, .*series has \[\(6, 9\), \(7, 9\)\]"):
        read_series(series)
    other.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["another"])
    other.save_as(series / "1.dcm", enforce_file_format=True)
    with pytest.raises(UsageError, match=r"a folder must hold one DICOM series, .*series has 2"):
        read_series(series)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"must hold NIfTI files or one DICOM series, .*empty has neither"):
        read_series(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda good: good[: len(good) // 2],
            "must say its PixelSpacing, .* lacks PixelSpacing, ImageOr.*, PixelData$",
        ),
        (lambda good: good[:-9], "must be readable, .*4.dcm is not"),
        (lambda good: good.replace(b"-1024", b"-1x24"), "must be readable, .*4.dcm is not"),
        (lambda good: good.replace(b"US\x02\x00\x07\x00", b"UX\x02\x00\x07\x00"), "must be readable, .*4.dcm is not"),
    ],
    ids=["half a file", "without its end", "no number", "no kind of value"],
)
def test_a_damaged_slice_is_named(series: Path, change: Callable[[bytes], bytes], told: str) -> None:
    good = (series / "4.dcm").read_bytes()
    damaged = change(good)
    assert damaged != good
    (series / "4.dcm").write_bytes(damaged)
    with pytest.raises(UsageError, match=rf"data.source: every slice of a series {told}"):
        read_series(series)


def test_a_mask_of_another_grid_is_refused(series: Path, tmp_path: Path, write_scan: Callable[..., Path]) -> None:
    image, affine = read_series(series)

    def told(mask: np.ndarray, at: np.ndarray, sentence: str) -> None:
        label = write_scan(tmp_path / "m.nii.gz", mask, at)
        case = DicomCase(site="s", case="c", series=series, label=label, normalisation=Unchanged())
        with pytest.raises(UsageError, match=sentence):
            case.read()

    mask = np.zeros(image.shape, np.uint8)
    told(
        mask[1:], affine, r"scan and mask must have the same shape, .*series has \(6, 7, 9\) and .*m.nii.gz \(5, 7, 9\)"
    )
    shifted = affine.copy()
    shifted[2, 3] += 4
    told(mask, shifted, r"same grid \(within data.source.tolerance 0.5 mm\), .*m.nii.gz lies 4 mm away from .*series")
    for name in ("2.dcm", "4.dcm"):  # the topmost two
        (series / name).unlink()
    told(mask, affine, r"a scan must have at least 5 slices, .*series has 4")


def test_a_series_is_segmented_by_the_command(
    series: Path, tmp_path: Path, make_segmenter: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    reading = ScanReading("blocks", "synthetic", ("background", "block"), {"a": Percentiles()})
    save_merged(Trained(make_segmenter().local.eval(), reading), tmp_path / "model.safetensors")
    words = ["predict", "--weights", str(tmp_path / "model.safetensors"), "--device", "cpu", "--out"]
    main([*words, str(tmp_path / "masks"), "--scans", str(series)])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{tmp_path}/masks/series.nii.gz: block ")
    assert told[0].endswith(" ml")
    written = nibabel.load(tmp_path / "masks/series.nii.gz")
    image, affine = read_series(series)
    assert written.shape == image.shape
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, affine, atol=1e-4)
    assert (tmp_path / "masks/series.png").stat().st_size > 5_000
