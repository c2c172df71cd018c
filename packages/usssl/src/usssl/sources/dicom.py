"""DICOM ultrasound: single and multi-frame, palettes, YBR colour, MONOCHROME1, and the region that shows tissue."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.processing import apply_rescale, apply_windowing

from shared.errors import UsageError
from usssl.patients import pseudonym
from usssl.sources.clips import Clip, FileReader
from usssl.sources.open_files import OpenFiles

SUFFIXES = (".dcm", ".dicom", ".ima")
_TISSUE = 1  # Region Data Type (0018,6014)


class DicomReader(FileReader):
    """Frames of DICOM files, each decoded on its own; the parsed file stays open.

    Colour of any kind becomes RGB, three equal channels become grey; MONOCHROME1 is inverted; more than 8 bits are
    windowed as the file says, else from its smallest to its largest possible value.

    Args:
        region: Crop to the largest region that the file marks as tissue (Sequence of Ultrasound Regions), which leaves
            out text and logos; files without regions stay whole.
    """

    def __init__(self, region: bool = False) -> None:
        self.region = region
        self._files: OpenFiles[Any] = OpenFiles(_parsed, lambda file: None, most=4)

    def __getstate__(self) -> dict[str, object]:
        return {"region": self.region}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def probe(self, path: Path) -> list[Clip]:
        """The file as a clip: frames, rate and machine as its header says, and a pseudonym of its PatientID.

        Nothing else of the header is kept, so that no report, table or checkpoint can name a patient.

        Raises:
            UsageError: The file is no DICOM, or holds no picture.
        """
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            frames = int(header.get("NumberOfFrames") or 1)
            if "Rows" not in header or "PhotometricInterpretation" not in header or frames < 1:
                raise UsageError(f"data.source.root: every DICOM file must hold pictures, {path} holds none")
            patient = str(header.get("PatientID") or "")
            machine = " ".join(str(header.get(key) or "") for key in ("Manufacturer", "ManufacturerModelName")).strip()
            rate = _rate(header)
        except UsageError:
            raise
        except Exception as error:  # the parser of every kind of element has errors of its own
            raise UsageError(f"data.source.root: every DICOM file must be readable, {path} is not ({error})") from error
        return [
            Clip(
                video_id=path.stem,
                path=str(path),
                frames=frames,
                reader=self,
                fps=rate,
                patient=pseudonym(patient) if patient else None,
                machine=machine or None,
            )
        ]

    def read(self, clip: Clip, frame: int) -> np.ndarray:
        try:
            file = self._files(clip.path)
            return decoded(file, frame, self.region)
        except UsageError:
            raise
        except Exception as error:  # decoders of many libraries, each with errors of its own
            raise UsageError(
                f"data.source.root: every frame must be readable, frame {frame} of {clip.path} is not ({error})"
            ) from error


def _parsed(path: str) -> Any:
    return pydicom.dcmread(path)


def _rate(header: Any) -> float | None:
    time = header.get("FrameTime")  # ms
    if time:
        return 1000 / float(time)
    rate = header.get("CineRate") or header.get("RecommendedDisplayFrameRate")
    return float(rate) if rate else None


def decoded(file: Any, frame: int, region: bool = False) -> np.ndarray:
    """One frame of a parsed file: ``(H, W)`` or ``(H, W, 3)`` uint8."""
    pixels, described = get_decoder(file.file_meta.TransferSyntaxUID).as_array(file, index=frame)
    colours = str(described["photometric_interpretation"])
    if colours == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, file)
        pixels = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    elif pixels.ndim == 2:
        pixels = _grey(pixels, file, inverted=colours == "MONOCHROME1")
    elif pixels.dtype != np.uint8:
        pixels = (pixels >> max(int(file.BitsStored) - 8, 0)).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels[..., :3]
        if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
            pixels = pixels[..., 0]
    box = tissue_box(file) if region else None
    return np.ascontiguousarray(pixels if box is None else pixels[box])


def _grey(pixels: np.ndarray, file: Any, inverted: bool) -> np.ndarray:
    if pixels.dtype != np.uint8 or int(file.BitsStored) != 8:
        values = apply_rescale(pixels, file).astype(np.float64)
        if file.get("WindowWidth"):
            values = apply_windowing(values, file).astype(np.float64)
            low, high = values.min(), values.max()
        else:
            signed = int(file.get("PixelRepresentation", 0))
            bits = int(file.BitsStored)
            ends = np.array([-(1 << (bits - 1)), (1 << (bits - 1)) - 1] if signed else [0, (1 << bits) - 1])
            low, high = apply_rescale(ends, file).astype(np.float64)
        pixels = np.rint(255 * np.clip((values - low) / max(high - low, 1e-12), 0, 1)).astype(np.uint8)
    return 255 - pixels if inverted else pixels


def tissue_box(file: Any) -> tuple[slice, slice] | None:
    """Rows and columns of the largest region that shows tissue; ``None`` where the file names no region."""
    regions = [region for region in file.get("SequenceOfUltrasoundRegions") or [] if "RegionLocationMaxX1" in region]
    tissue = [region for region in regions if int(region.get("RegionDataType", _TISSUE)) == _TISSUE]
    boxes = [
        tuple(int(region[f"RegionLocation{end}"].value) for end in ("MinY0", "MaxY1", "MinX0", "MaxX1"))
        for region in tissue or regions
    ]
    if not boxes:
        return None
    top, bottom, left, right = max(boxes, key=lambda b: (b[1] - b[0]) * (b[3] - b[2]))
    box = slice(max(top, 0), bottom + 1), slice(max(left, 0), right + 1)
    if box[0].stop <= box[0].start or box[1].stop <= box[1].start:
        raise UsageError(
            f"data.source.region: a region must have an area, {file.filename} marks rows {top} to {bottom} and "
            f"columns {left} to {right}"
        )
    return box
