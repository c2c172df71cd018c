"""A folder of videos in any of five layouts, found out or told."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError
from usssl.cache_folder import user_cache_folder
from usssl.patients import check_patients
from usssl.sources import dicom, frame_folders, nifti, video
from usssl.sources.clips import Clip, ClipSets, FileReader, VideoSource
from usssl.sources.frame_folders import natural_key
from usssl.sources.manifest import Entry, read_manifest
from usssl.sources.probe_cache import ProbeCache

Layout = Literal["hdf5", "frames", "video", "dicom", "nifti"]
LAYOUTS: tuple[Layout, ...] = ("hdf5", "frames", "video", "dicom", "nifti")
_HDF5 = (".h5", ".hdf5")
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "hdf5": _HDF5,
    "frames": frame_folders.SUFFIXES,
    "video": video.SUFFIXES,
    "dicom": dicom.SUFFIXES,
    "nifti": nifti.SUFFIXES,
}


class VideoFolder(VideoSource):
    """Videos below a folder.

    The layouts, of which the first that fits is taken unless one is named:

    - ``hdf5``: ``train*.h5`` and ``valid*.h5``, one dataset per video;
    - ``video``: ``{train,valid}/**/*.mp4`` (or avi, mov, mkv …);
    - ``dicom``: ``{train,valid}/**/*.dcm``;
    - ``nifti``: ``**/*.nii.gz``;
    - ``frames``: ``{train,valid}/**/VIDEO/FRAME.png``, every folder that holds pictures is a video.

    Without folders ``train`` and ``valid`` everything is for training. A ``manifest.csv`` in the folder, or the one
    that is named, decides instead: columns ``video_id, path`` and perhaps ``patient_id, split, machine, fps,
    n_frames``; paths are relative to the folder. What a manifest says of a video goes before what its file says. Rows
    of the split ``test`` are left out: nothing is pretrained on them.

    How many frames each file has is found out once and kept in the cache folder.

    Args:
        root: The folder.
        layout: How to read it.
        manifest: The table; ``None`` takes ``manifest.csv`` where it is there.
        region: Crop DICOM pictures to the region that shows tissue.
        patient_from_name: The patient is what the video's name holds before the first ``_``.
        name: What the data are called; without it the folder's name.
        provenance: Whether the videos are real, derived or synthetic.
        cache_dir: Where the index is kept; ``None`` takes the user's cache folder.
    """

    def __init__(
        self,
        root: str | Path,
        layout: Literal["auto", "hdf5", "frames", "video", "dicom", "nifti"] = "auto",
        manifest: str | Path | None = None,
        region: bool = False,
        patient_from_name: bool = False,
        name: str | None = None,
        provenance: Provenance = "real",
        cache_dir: str | Path | None = None,
    ) -> None:
        if layout not in ("auto", *LAYOUTS):
            raise UsageError(f"data.source.layout must be auto or one of {', '.join(LAYOUTS)}, got {layout!r}")
        self.root = Path(root).expanduser()
        self.layout = layout
        self.manifest = None if manifest is None else Path(manifest)
        self.region = region
        self.patient_from_name = patient_from_name
        self.name = name if name is not None else self.root.name
        self.provenance: Provenance = provenance
        self.cache_dir = user_cache_folder() if cache_dir is None else Path(cache_dir).expanduser()

    def load(self) -> ClipSets:
        root = existing(self.root, "data.source.root", "folder")
        layout = detected_layout(root) if self.layout == "auto" else self.layout
        table = self.manifest or (root / "manifest.csv" if (root / "manifest.csv").is_file() else None)
        cache = ProbeCache(self.cache_dir, root, layout)
        reader = self._reader(layout)
        sets = self._listed(root, table, reader, cache) if table else self._found(root, layout, reader, cache)
        cache.save()
        if not sets.get("train"):
            raise UsageError(f"data.source.root must hold at least one video to train on, {root} has none ({layout})")
        check_patients(**{part: [clip.patient for clip in clips] for part, clips in sets.items()})
        return ClipSets(self.name, tuple(sets["train"]), tuple(sets.get("validation", ())))

    def _reader(self, layout: str) -> FileReader:
        if layout == "hdf5":
            from usssl.sources.hdf5 import Hdf5Reader

            return Hdf5Reader()
        if layout == "frames":
            return frame_folders.FrameFolderReader()
        if layout == "video":
            return video.VideoReader()
        return dicom.DicomReader(self.region) if layout == "dicom" else nifti.NiftiReader()

    def _found(self, root: Path, layout: str, reader: FileReader, cache: ProbeCache) -> dict[str, list[Clip]]:
        parts: dict[str, list[Path]] = {}
        if layout == "hdf5":
            for file in sorted(file for file in root.iterdir() if file.suffix.lower() in _HDF5):
                part = next((p for name, p in SPLIT_NAMES.items() if file.name.lower().startswith(name)), "train")
                parts.setdefault(part, []).append(file)
        else:
            named = [f for f in root.iterdir() if f.is_dir() and f.name.lower() in SPLIT_NAMES]
            folders = {SPLIT_NAMES[folder.name.lower()]: folder for folder in named}
            for part, folder in (folders or {"train": root}).items():
                parts[part] = _units(folder, layout)
        parts.pop("test", None)
        return {
            part: self._named([clip for unit in units for clip in self._clips(unit, reader, cache)], root)
            for part, units in parts.items()
        }

    def _clips(self, unit: Path, reader: FileReader, cache: ProbeCache) -> list[Clip]:
        return [replace(clip, provenance=self.provenance) for clip in cache.clips(unit, reader)]

    def _named(self, clips: list[Clip], root: Path) -> list[Clip]:
        """Videos of equal names in different folders are told apart by their paths."""
        names = [clip.video_id for clip in clips]
        if len(set(names)) < len(names):
            clips = [
                replace(clip, video_id=clip.video_id if clip.key else str(Path(clip.path).relative_to(root)))
                for clip in clips
            ]
        if self.patient_from_name:
            clips = [replace(clip, patient=Path(clip.key or clip.path).name.split("_")[0]) for clip in clips]
        return clips

    def _listed(self, root: Path, table: Path, reader: FileReader, cache: ProbeCache) -> dict[str, list[Clip]]:
        sets: dict[str, list[Clip]] = {}
        for entry in read_manifest(existing(table, "data.source.manifest", "file")):
            clip = self._entry_clip(root, entry, reader, cache, table)
            if entry.split != "test":
                sets.setdefault(entry.split, []).append(clip)
        return sets

    def _entry_clip(self, root: Path, entry: Entry, reader: FileReader, cache: ProbeCache, table: Path) -> Clip:
        path = root / entry.path
        if not path.exists():
            raise UsageError(f"data.source.manifest: every video must exist, {table.name} names {path}")
        found = self._clips(path, reader, cache)
        if len(found) > 1:  # an HDF5 file with several videos
            found = [clip for clip in found if clip.key == entry.video_id]
        if not found:
            raise UsageError(f"data.source.manifest: every video must exist, {path} holds no {entry.video_id}")
        clip = found[0]
        if entry.frames is not None and entry.frames != clip.frames:
            raise UsageError(
                f"data.source.manifest: n_frames of {entry.video_id} must be that of its file, "
                f"{table.name} says {entry.frames} and {path} has {clip.frames}"
            )
        named = entry.video_id.split("_")[0] if self.patient_from_name else None
        return replace(
            clip,
            video_id=entry.video_id,
            patient=entry.patient or named or clip.patient,
            machine=entry.machine or clip.machine,
            fps=entry.fps or clip.fps,
        )


def detected_layout(root: Path) -> Layout:
    """The first layout whose files occur below a folder.

    Raises:
        UsageError: None does.
    """
    suffixes = {_suffix(file) for file in root.rglob("*") if not file.name.startswith(".")}
    order: tuple[Layout, ...] = ("hdf5", "video", "dicom", "nifti", "frames")
    for layout in order:
        if suffixes & set(_SUFFIXES[layout]):
            return layout
    raise UsageError(
        f"data.source.root must hold videos (HDF5, mp4, avi, mov, mkv, DICOM, NIfTI or folders of pictures), "
        f"{root} has none"
    )


def _suffix(file: Path) -> str:
    return ".nii.gz" if file.name.lower().endswith(".nii.gz") else file.suffix.lower()


def _units(folder: Path, layout: str) -> list[Path]:
    """The files of a layout below a folder, or the folders that hold pictures, in natural order."""
    if layout == "frames":
        units = {file.parent for file in folder.rglob("*") if file.suffix.lower() in frame_folders.SUFFIXES}
    else:
        units = {file for file in folder.rglob("*") if _suffix(file) in _SUFFIXES[layout]}
    hidden = {unit for unit in units if any(p.startswith(".") for p in unit.relative_to(folder).parts)}
    return sorted(units - hidden, key=lambda unit: natural_key(str(unit.relative_to(folder))))
