"""Public ultrasound videos and sweeps to pretrain on: NatalIA PBF-US1, EchoNet-Dynamic, CAMUS."""

from dataclasses import replace
from pathlib import Path

from shared.data.sources import existing
from shared.errors import UsageError
from usssl.cache_folder import user_cache_folder
from usssl.plane_csv import read_rows
from usssl.sources.clips import Clip, ClipSets, VideoSource
from usssl.sources.folder import VideoFolder
from usssl.sources.nifti import NiftiReader
from usssl.sources.probe_cache import ProbeCache
from usssl.sources.video import VideoReader


class NataliaPbfUs1(VideoFolder):
    """NatalIA PBF-US1 (Zenodo 14193949): free-hand sweeps over a phantom of a fetus, one folder of pictures each.

    Args:
        root: The folder.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root, layout="frames", name="natalia_pbf_us1", provenance="derived")


class EchonetDynamic(VideoSource):
    """EchoNet-Dynamic (needs a registration): ``FileList.csv`` and ``Videos/*.avi``, adult apical four-chamber views.

    Rows of the split ``TEST`` are left out. D. Ouyang et al., Nature 580:252-256, 2020.

    Args:
        root: The folder of ``FileList.csv``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    def load(self) -> ClipSets:
        table = existing(self.root, "data.source.root", "folder") / "FileList.csv"
        rows = read_rows(existing(table, "data.source.root: FileList.csv", "file"), ",", "data.source.root")
        missing = {"FileName", "FPS", "NumberOfFrames", "Split"} - set(rows[0])
        if missing:
            raise UsageError(f"data.source.root: {table} must have the columns {', '.join(sorted(missing))}")
        reader, parts = VideoReader(), {"TRAIN": [], "VAL": []}  # type: ignore[var-annotated]
        for row in rows:
            name = row["FileName"].removesuffix(".avi")
            file = self.root / "Videos" / f"{name}.avi"
            if row["Split"].upper() not in parts:
                continue
            if not file.is_file():
                raise UsageError(f"data.source.root: every video must exist, {table.name} names {file}")
            # Everybody was recorded once: the video's name stands for the patient.
            clip = Clip(name, str(file), int(float(row["NumberOfFrames"])), reader, fps=float(row["FPS"]), patient=name)
            parts[row["Split"].upper()].append(clip)
        return ClipSets("echonet_dynamic", tuple(parts["TRAIN"]), tuple(parts["VAL"]))


class Camus(VideoSource):
    """CAMUS: ``database_nifti/patientXXXX/patientXXXX_{2CH,4CH}_half_sequence.nii.gz``, adults in two views.

    S. Leclerc et al., IEEE Transactions on Medical Imaging 38(9), 2019.

    Args:
        root: The folder that holds ``database_nifti``, or that folder.
        validation: The last patients by number that are kept for validation.
    """

    def __init__(self, root: str | Path, validation: int = 50) -> None:
        if validation < 0:
            raise UsageError(f"data.source.validation must be at least 0, got {validation}")
        self.root, self.validation = Path(root).expanduser(), validation

    def load(self) -> ClipSets:
        root = existing(self.root, "data.source.root", "folder")
        base = root / "database_nifti" if (root / "database_nifti").is_dir() else root
        files = sorted(base.glob("patient*/patient*_half_sequence.nii*"))
        if not files:
            raise UsageError(f"data.source.root must hold patientXXXX/*_half_sequence.nii.gz, {base} has none")
        reader, cache = NiftiReader(), ProbeCache(user_cache_folder(), base, "camus")
        clips = [replace(cache.clips(f, reader)[0], patient=f.parent.name) for f in files]
        cache.save()
        patients = sorted({f.parent.name for f in files})
        if self.validation >= len(patients):
            raise UsageError(
                f"data.source.validation must leave patients to train on, got {self.validation} of {len(patients)}"
            )
        held = set(patients[len(patients) - self.validation :])
        return ClipSets(
            "camus",
            tuple(clip for clip in clips if clip.patient not in held),
            tuple(clip for clip in clips if clip.patient in held),
        )
