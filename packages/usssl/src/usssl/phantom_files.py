"""The phantom written to disk in every layout that real data come in."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from shared.data.sources import ImageSets
from shared.prepare import write_images, write_text
from usssl.sources.clips import Clip, ClipSets
from usssl.sources.manifest import write_manifest

FOLDERS = {"train": "train", "validation": "valid"}
TABLES = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}


def write_videos(sets: ClipSets, out: Path, layout: str) -> None:
    """Write every clip in one layout, and ``manifest.csv`` last."""
    rows: list[list[object]] = []
    for part, clips in (("train", sets.train), ("validation", sets.validation)):
        for clip in clips:
            path = _WRITERS[layout](clip, out, FOLDERS[part])
            rate = f"{clip.fps:.6g}"
            rows.append([clip.video_id, path, clip.patient, FOLDERS[part], clip.machine, rate, clip.frames])
    write_manifest(out / "manifest.csv", rows)


def write_planes(sets: ImageSets, out: Path) -> None:
    """Write ``images/PATIENT_N.png`` and a table ``image_path,class,patient_id,machine_type`` for every split."""
    for part, file in TABLES.items():
        data = getattr(sets, part)
        names = [f"images/{patient}_{n:04d}.png" for n, patient in enumerate(data.columns["patient_id"])]
        write_images([out / name for name in names], lambda n, data=data: data[n][0], f"writing {part}")  # type: ignore[misc]
        classes = [data.class_names[label] for label in data.labels]
        columns = names, classes, data.columns["patient_id"].tolist(), data.columns["machine_type"].tolist()
        text = io.StringIO()
        header = ["image_path", "class", "patient_id", "machine_type"]
        csv.writer(text, lineterminator="\n").writerows([header, *zip(*columns, strict=True)])
        write_text(out / file, text.getvalue())


def _frames_of(clip: Clip) -> np.ndarray:
    return np.stack([clip.read(n) for n in range(clip.frames)])


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"tmp-{path.name}")
        write(temporary)
        temporary.replace(path)


def _hdf5(clip: Clip, out: Path, folder: str) -> str:
    import h5py

    with h5py.File(out / f"{folder}.h5", "a") as file:
        if clip.video_id not in file:
            # Frames are read one at a time, so one frame is one chunk.
            frames = _frames_of(clip)
            data = file.create_dataset(clip.video_id, data=frames, chunks=(1, *frames.shape[1:]), compression="lzf")
            data.attrs.update({"fps": clip.fps, "patient_id": clip.patient, "machine": clip.machine})
    return f"{folder}.h5"


def _frames(clip: Clip, out: Path, folder: str) -> str:
    paths = [out / folder / clip.video_id / f"{n:04d}.png" for n in range(clip.frames)]
    write_images(paths, clip.read, clip.video_id)
    return f"{folder}/{clip.video_id}"


def write_mp4(frames: Sequence[np.ndarray], path: Path, fps: float) -> None:
    """Grey frames as H.264 in mp4, a key frame at least every 12."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18", "g": "12"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.repeat(frame[..., None], 3, axis=2), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _video(clip: Clip, out: Path, folder: str) -> str:
    path = out / folder / f"{clip.video_id}.mp4"
    _whole(path, lambda file: write_mp4(list(_frames_of(clip)), file, clip.fps or 30))
    return f"{folder}/{path.name}"


def write_dicom(frames: np.ndarray, path: Path, clip: Clip) -> None:
    """Grey frames as an uncompressed ultrasound multi-frame image."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[clip.video_id])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.PatientID, file.ManufacturerModelName = "US", clip.patient, clip.machine
    file.NumberOfFrames, file.Rows, file.Columns = frames.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    file.FrameTime = f"{1000 / (clip.fps or 30):.6g}"
    file.PixelData = frames.tobytes() + b"\0" * (frames.size % 2)
    file.save_as(path, enforce_file_format=True)


def _dicom(clip: Clip, out: Path, folder: str) -> str:
    path = out / folder / f"{clip.video_id}.dcm"
    _whole(path, lambda file: write_dicom(_frames_of(clip), file, clip))
    return f"{folder}/{path.name}"


def _nifti(clip: Clip, out: Path, folder: str) -> str:
    import nibabel

    path = out / folder / f"{clip.video_id}.nii.gz"

    def write(file: Path) -> None:
        image = nibabel.Nifti1Image(_frames_of(clip).transpose(2, 1, 0), np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((1.0, 1.0, 1 / (clip.fps or 30)))
        nibabel.save(image, file)

    _whole(path, write)
    return f"{folder}/{path.name}"


_WRITERS: dict[str, Callable[[Clip, Path, str], str]] = {
    "dicom": _dicom,
    "frames": _frames,
    "hdf5": _hdf5,
    "nifti": _nifti,
    "video": _video,
}
