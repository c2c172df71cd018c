"""The phantom as data: videos to pretrain on and labelled planes, drawn once and kept in the cache folder."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.data.sources import ImageSets, Source
from shared.errors import UsageError
from usssl.cache_folder import user_cache_folder, write_whole
from usssl.fetal_heart_phantom.anatomy import CLASSES
from usssl.fetal_heart_phantom.clip import draw_subject, plane_picture, video
from usssl.sources.clips import ArrayReader, Clip, ClipSets, VideoSource

NAME = "fetal-heart-phantom"
_VERSION = 2  # of the drawing; another number draws everything anew
PATIENT_SETS = {"pretrain": "V", "pretrain-validation": "W", "train": "T", "validation": "U", "test": "X"}
"""First letter of a patient's name in each set: nobody is in two."""


def patient_stream(seed: int, patient: str, *path: int) -> np.random.Generator:
    """Randomness of one patient, or of one of the patient's pictures: the same whatever else is drawn."""
    return np.random.default_rng(np.random.SeedSequence([seed, crc32(patient.encode()), *path]))


def draw_planes(
    part: str, count: int, per_patient: int, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labelled planes, as many of each class.

    Args:
        part: ``train``, ``validation`` or ``test``.
        count: How many.
        per_patient: How many of one patient, of classes in turn.
        size: Height and width.
        seed: Of everything.

    Returns:
        ``(N, size, size)`` uint8, ``(N,)`` labels, patients and machines.
    """
    pictures = np.empty((count, size, size), np.uint8)
    labels = np.arange(count) % len(CLASSES)
    patients = [f"{PATIENT_SETS[part]}{n // per_patient:04d}" for n in range(count)]
    machines = []
    for n, patient in enumerate(patients):
        subject = draw_subject(patient_stream(seed, patient))
        machines.append(subject.machine.name)
        rng = patient_stream(seed, patient, n % per_patient)
        pictures[n] = plane_picture(subject, CLASSES[labels[n]], size, rng)
    return pictures, labels, np.array(patients), np.array(machines)


class PhantomPlanes(Source):
    """Labelled planes of five classes, balanced; patients are disjoint between the sets and from the videos.

    Columns: ``patient_id`` and ``machine_type``.

    Args:
        train: Training pictures.
        validation: Validation pictures.
        test: Test pictures.
        per_patient: Pictures of one patient.
        size: Height and width.
        seed: Of everything.
        cache_dir: Where they are kept; ``None`` takes the user's cache folder.

    Raises:
        UsageError: A number is out of range.
    """

    class_names = CLASSES
    stored_channels = 1

    def __init__(
        self,
        train: int = 1000,
        validation: int = 200,
        test: int = 400,
        per_patient: int = 5,
        size: int = 128,
        seed: int = 73,
        cache_dir: str | Path | None = None,
    ) -> None:
        _check("data.source", train=train, validation=validation, test=test, per_patient=per_patient)
        _check_size(size, seed)
        self.counts = {"train": train, "validation": validation, "test": test}
        self.per_patient, self.size, self.seed = per_patient, size, seed
        self.folder = _folder(cache_dir)

    def load(self) -> ImageSets:
        return ImageSets(**{part: self._labelled(part, count) for part, count in self.counts.items()})

    def _labelled(self, part: str, count: int) -> LabelledImages:
        options = {"part": part, "count": count, "per_patient": self.per_patient, "size": self.size, "seed": self.seed}

        def draw() -> dict[str, np.ndarray]:
            drawn = draw_planes(part, count, self.per_patient, self.size, self.seed)
            return dict(zip(("images", "labels", "patients", "machines"), drawn, strict=True))

        arrays = _cached(self.folder, "planes", options, draw)
        return LabelledImages(
            arrays["images"],
            arrays["labels"],
            CLASSES,
            name=f"{NAME} {part}",
            provenance="synthetic",
            columns={"patient_id": arrays["patients"], "machine_type": arrays["machines"]},
        )


def draw_videos(
    part: str, videos: int, patients: int, frames: tuple[int, int], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Videos behind each other: ``frames`` ``(sum T, size, size)``, and for each video its length, rate and more.

    Args:
        part: ``pretrain`` or ``pretrain-validation``.
        videos: How many.
        patients: Of how many patients.
        frames: Least and most frames of a video.
        size: Height and width.
        seed: Of everything.
    """
    drawn, facts = [], []
    for n in range(videos):
        patient = f"{PATIENT_SETS[part]}{n % patients:04d}"
        subject = draw_subject(patient_stream(seed, patient))
        rng = patient_stream(seed, patient, n // patients)
        clip = video(subject, int(rng.integers(frames[0], frames[1] + 1)), size, rng)
        drawn.append(clip.frames)
        facts.append((patient, subject.machine.name, len(clip.frames), clip.fps, "+".join(clip.planes)))
    names = ("patients", "machines", "lengths", "fps", "planes")
    columns = {name: np.array(values) for name, values in zip(names, zip(*facts, strict=True), strict=True)}
    return {"frames": np.concatenate(drawn)} | columns


class PhantomVideos(VideoSource):
    """Videos of a beating fetal heart, of the belly below it or of other organs; half of them pass several planes.

    Args:
        videos: To train on.
        patients: Of how many patients.
        validation: Videos for validation, of other patients.
        frames: Least and most frames of a video.
        size: Height and width.
        seed: Of everything.
        cache_dir: Where they are kept; ``None`` takes the user's cache folder.

    Raises:
        UsageError: A number is out of range.
    """

    def __init__(
        self,
        videos: int = 40,
        patients: int = 20,
        validation: int = 6,
        frames: tuple[int, int] = (32, 96),
        size: int = 128,
        seed: int = 73,
        cache_dir: str | Path | None = None,
    ) -> None:
        _check("data.source", videos=videos, patients=patients)
        _check_size(size, seed)
        if validation < 0:
            raise UsageError(f"data.source.validation must be at least 0, got {validation}")
        if not 1 <= frames[0] <= frames[1]:
            raise UsageError(f"data.source.frames must be a least and a most number from 1, got {list(frames)}")
        self.videos, self.patients, self.validation = videos, patients, validation
        self.frames, self.size, self.seed = (int(frames[0]), int(frames[1])), size, seed
        self.folder = _folder(cache_dir)

    def load(self) -> ClipSets:
        train = self._clips("pretrain", self.videos, min(self.patients, self.videos))
        held = self._clips("pretrain-validation", self.validation, max(1, self.validation // 2))
        return ClipSets(NAME, train, held)

    def _clips(self, part: str, videos: int, patients: int) -> tuple[Clip, ...]:
        if videos == 0:
            return ()
        options = {"part": part, "videos": videos, "patients": patients, "frames": self.frames}
        options |= {"size": self.size, "seed": self.seed}

        def draw() -> dict[str, np.ndarray]:
            return draw_videos(part, videos, patients, self.frames, self.size, self.seed)

        facts = _cached(self.folder, "videos", options, draw, apart="frames")
        reader, starts = ArrayReader(), np.cumsum(facts["lengths"]) - facts["lengths"]
        return tuple(
            Clip(
                video_id=f"{facts['patients'][n]}_{n:03d}",
                path=str(facts["file"]),
                frames=int(facts["lengths"][n]),
                reader=reader,
                key=str(starts[n]),
                fps=float(facts["fps"][n]),
                patient=str(facts["patients"][n]),
                machine=str(facts["machines"][n]),
                provenance="synthetic",
            )
            for n in range(videos)
        )


def _cached(
    folder: Path, kind: str, options: dict[str, object], draw: Callable[[], dict[str, np.ndarray]], apart: str = ""
) -> dict[str, np.ndarray]:
    """Arrays from the cache, drawn where they are not there; ``apart`` names one that gets an ``.npy`` file to map."""
    text = json.dumps({"version": _VERSION, **options}, sort_keys=True)
    file = folder / f"{kind}_{sha256(text.encode()).hexdigest()[:20]}.npz"
    mapped = file.with_suffix(".npy")
    if not (file.is_file() and (mapped.is_file() or not apart)):
        arrays = draw()
        if apart:
            big = arrays.pop(apart)
            write_whole(mapped, lambda path: _save(path, big))
        write_whole(file, lambda path: np.savez(path, **arrays))  # type: ignore[arg-type]
    try:
        with np.load(file, allow_pickle=False) as archive:
            stored = {key: archive[key] for key in archive.files}
    except Exception as error:  # archives and headers have errors of their own
        raise UsageError(f"the cache must hold readable files, {file} is damaged: delete it") from error
    return stored | ({"file": np.array(str(mapped))} if apart else {})


def _save(path: Path, array: np.ndarray) -> None:
    np.save(path, array, allow_pickle=False)


def _folder(cache_dir: str | Path | None) -> Path:
    return (user_cache_folder() if cache_dir is None else Path(cache_dir).expanduser()) / NAME


def _check(where: str, **counts: int) -> None:
    for option, value in counts.items():
        if value < 1:
            raise UsageError(f"{where}.{option} must be at least 1, got {value}")


def _check_size(size: int, seed: int) -> None:
    if not 32 <= size <= 1024:
        raise UsageError(f"data.source.size must lie in 32..1024, got {size}")
    if seed < 0:
        raise UsageError(f"data.source.seed must be at least 0, got {seed}")
