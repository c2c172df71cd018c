"""``usssl prepare``: the phantom in every layout, and public data indexed and checked. Nothing is downloaded.

Libraries are imported by the preset that runs.
"""

import json
from typing import TYPE_CHECKING, Literal

from shared.prepare import Preset, claim, prepare, write_text

if TYPE_CHECKING:
    from shared.data.sources import Source
    from usssl.sources.clips import VideoSource


def run(words: list[str]) -> None:
    """``usssl prepare [--preset NAME] [options]``."""
    prepare("usssl", PRESETS, words)


def fetal_heart_phantom(
    out: str,
    layout: Literal["hdf5", "frames", "video", "dicom", "nifti"] = "frames",
    videos: int = 40,
    patients: int = 20,
    train: int = 1000,
    validation: int = 200,
    test: int = 400,
    size: int = 128,
    least_frames: int = 32,
    most_frames: int = 96,
    seed: int = 73,
) -> None:
    """Synthetic fetal heart videos and planes of five classes.

    ``OUT/videos`` is read by ``--data.source usssl.sources.folder.VideoFolder --data.source.root OUT/videos``, and
    ``OUT/planes`` by ``--data.source usssl.plane_csv.PlaneCsv --data.source.train OUT/planes/train.csv`` with
    ``validation`` and ``test`` beside it.

    Args:
        out: Folder to write.
        layout: Of the videos.
        videos: To train on.
        patients: Of how many patients.
        train: Labelled training pictures.
        validation: Labelled validation pictures.
        test: Labelled test pictures.
        size: Height and width.
        least_frames: Of a video.
        most_frames: Of a video.
        seed: Of everything.
    """
    from shared.errors import UsageError
    from usssl.fetal_heart_phantom.source import PhantomPlanes, PhantomVideos
    from usssl.phantom_files import write_planes, write_videos
    from usssl.sources.folder import LAYOUTS

    if layout not in LAYOUTS:
        raise UsageError(f"--layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if not 1 <= least_frames <= most_frames:
        raise UsageError(f"--least_frames must lie in 1 .. --most_frames ({most_frames}), got {least_frames}")
    made: dict[str, object] = {
        "layout": layout,
        "videos": videos,
        "patients": patients,
        "train": train,
        "validation": validation,
    }
    made |= {"test": test, "size": size, "frames": [least_frames, most_frames], "seed": seed}
    clips = PhantomVideos(videos, patients, frames=(least_frames, most_frames), size=size, seed=seed).load()
    planes = PhantomPlanes(train, validation, test, size=size, seed=seed).load()
    folder = claim(out, "fetal-heart-phantom", **made)
    for name in ("videos", "planes"):
        (folder / name).mkdir(exist_ok=True)
    write_planes(planes, folder / "planes")
    write_videos(clips, folder / "videos", layout)
    print(f"{folder}: {len(clips.train) + len(clips.validation)} videos ({layout}), {train + validation + test} planes")


def fetal_planes_db(root: str, out: str) -> None:
    """Index and check FETAL_PLANES_DB (Zenodo 3904280).

    Args:
        root: The folder of FETAL_PLANES_DB_data.csv.
        out: Folder for the summary.
    """
    from usssl.presets.fetal_planes_db import FetalPlanesDb

    _index_planes("fetal_planes_db", FetalPlanesDb(root), root, out)


def african_planes(root: str, out: str) -> None:
    """Index and check the African planes (Zenodo 7540447).

    Args:
        root: The folder that holds Zenodo_dataset.
        out: Folder for the summary.
    """
    from usssl.presets.african_planes import AfricanPlanes

    _index_planes("african_planes", AfricanPlanes(root), root, out)


def natalia_pbf_us1(root: str, out: str) -> None:
    """Index and check NatalIA PBF-US1 (Zenodo 14193949).

    Args:
        root: The folder of the sweeps.
        out: Folder for the manifest.
    """
    from usssl.presets.videos import NataliaPbfUs1

    _index_videos("natalia_pbf_us1", NataliaPbfUs1(root), root, out)


def echonet_dynamic(root: str, out: str) -> None:
    """Index and check EchoNet-Dynamic.

    Args:
        root: The folder of FileList.csv.
        out: Folder for the manifest.
    """
    from usssl.presets.videos import EchonetDynamic

    _index_videos("echonet_dynamic", EchonetDynamic(root), root, out)


def camus(root: str, out: str) -> None:
    """Index and check CAMUS.

    Args:
        root: The folder of database_nifti.
        out: Folder for the manifest.
    """
    from usssl.presets.videos import Camus

    _index_videos("camus", Camus(root), root, out)


def camus_views(root: str, out: str) -> None:
    """Index and check the views of CAMUS.

    Args:
        root: The folder of database_nifti.
        out: Folder for the summary.
    """
    from usssl.presets.camus_views import CamusViews

    _index_planes("camus_views", CamusViews(root), root, out)


PRESETS: dict[str, Preset] = {
    "african_planes": african_planes,
    "camus": camus,
    "camus_views": camus_views,
    "echonet_dynamic": echonet_dynamic,
    "fetal-heart-phantom": fetal_heart_phantom,
    "fetal_planes_db": fetal_planes_db,
    "natalia_pbf_us1": natalia_pbf_us1,
}
"""Name of a preset to its function."""


def _index_planes(name: str, source: "Source", root: str, out: str) -> None:
    """Write ``summary.json``: images and patients of every class and split, counted from the files."""
    from pathlib import Path

    import numpy as np

    from usssl.patients import check_patients

    sets = source.load()
    parts = {"train": sets.train, "validation": sets.validation, "test": sets.test}
    check_patients(**{part: data.columns["patient_id"] for part, data in parts.items() if data is not None})
    summary = {
        part: {
            "images": len(data),
            "patients": len(np.unique(data.columns["patient_id"])),
            "classes": dict(zip(data.class_names, data.class_counts().tolist(), strict=True)),
        }
        for part, data in parts.items()
        if data is not None
    }
    folder = claim(out, name, root=str(Path(root).expanduser().resolve()))
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    counted = ", ".join(f"{facts['images']} images ({part})" for part, facts in summary.items())
    print(f"{folder}: {counted}; no patient is in two splits")


def _index_videos(name: str, source: "VideoSource", root: str, out: str) -> None:
    """Write ``manifest.csv`` with absolute paths: every video, its split and its frames."""
    from pathlib import Path

    from usssl.sources.manifest import write_manifest

    sets = source.load()
    rows: list[list[object]] = []
    for part, clips in (("train", sets.train), ("valid", sets.validation)):
        for clip in clips:
            facts = [clip.patient or "", part, clip.machine or "", "" if clip.fps is None else f"{clip.fps:.6g}"]
            rows.append([clip.video_id, str(Path(clip.path).resolve()), *facts, clip.frames])
    folder = claim(out, name, root=str(Path(root).expanduser().resolve()))
    write_manifest(folder / "manifest.csv", rows)
    frames = sum(clip.frames for clip in (*sets.train, *sets.validation))
    print(f"{folder}: {len(rows)} videos, {frames} frames")
