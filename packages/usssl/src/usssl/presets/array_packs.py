"""Small packs of real ultrasound as NumPy archives, read from the user's folder: heads, breasts, lung clips."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.data.npz import Npz, read_npz
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError
from usssl.sources.clips import ArrayReader, Clip, ClipSets, VideoSource

HC18_FILE, BUSI_FILE, LUNG_FILE = "hc18_216x146.npz", "busi_128.npz", "lung_us_clips_112.npz"


class Hc18(Npz):
    """Trimester from a fetal head picture: three classes derived from the head's circumference, split by fetus.

    Use ``data.patient: subject``. Heads only, no heart: do not call it plane classification. T. L. A. van den Heuvel et
    al., PLoS ONE 13(8):e0200412, 2018.

    Args:
        root: The folder of ``hc18_216x146.npz``.
    """

    option = "data.source.root"

    def __init__(self, root: str | Path) -> None:
        super().__init__(
            Path(root).expanduser() / HC18_FILE,
            labels="trimester",
            columns=("subject", "source_name"),
            class_names=("first", "second", "third"),
            name="hc18",
        )


class Busi(Npz):
    """Normal, benign or malignant from a breast picture; the split keeps near-duplicates together.

    Use ``data.patient: group``. W. Al-Dhabyani et al., Data in Brief 28:104863, 2020.

    Args:
        root: The folder of ``busi_128.npz``.
    """

    option = "data.source.root"

    def __init__(self, root: str | Path) -> None:
        super().__init__(Path(root).expanduser() / BUSI_FILE, columns=("group", "source_name"), name="busi")


class Stills(VideoSource):
    """The pictures of a pack without their labels, each as a clip of one frame.

    Args:
        file: The archive.
        group: Its array of patients or groups.
        splits: Which parts to train on; test pictures are no choice to make lightly.
        name: What the data are called.

    Attributes:
        option: The option that names the archive, for error messages.
    """

    option = "data.source.file"

    def __init__(
        self, file: str | Path, group: str, splits: Sequence[str] = ("train",), name: str | None = None
    ) -> None:
        unknown = [split for split in splits if split not in SPLIT_NAMES]
        if unknown or not splits:
            raise UsageError(f"data.source.splits must be some of {', '.join(SPLIT_NAMES)}, got {list(splits)}")
        self.file, self.group = Path(file).expanduser(), group
        self.splits = {SPLIT_NAMES[split] for split in splits}
        self.name = name if name is not None else self.file.stem

    def load(self) -> ClipSets:
        arrays = read_npz(self.file, {"images", "split", self.group, "source_name"}, self.option)
        _require(arrays, ("images", "split", self.group), self.file)
        images, split = arrays["images"], arrays["split"]
        reader = ArrayReader({str(n): images[n : n + 1] for n in range(len(images))})
        names = arrays.get("source_name", np.arange(len(images)))
        clips = tuple(
            Clip(str(names[n]), str(self.file), 1, reader, key=str(n), patient=str(arrays[self.group][n]))
            for n in range(len(images))
            if SPLIT_NAMES.get(str(split[n])) in self.splits
        )
        return ClipSets(self.name, clips)


class Hc18Frames(Stills):
    """The head pictures of :class:`Hc18` without labels.

    Args:
        root: The folder of ``hc18_216x146.npz``.
        splits: Which parts to train on.
    """

    option = "data.source.root"

    def __init__(self, root: str | Path, splits: Sequence[str] = ("train",)) -> None:
        super().__init__(Path(root) / HC18_FILE, "subject", splits, "hc18")


class BusiFrames(Stills):
    """The breast pictures of :class:`Busi` without labels.

    Args:
        root: The folder of ``busi_128.npz``.
        splits: Which parts to train on.
    """

    option = "data.source.root"

    def __init__(self, root: str | Path, splits: Sequence[str] = ("train",)) -> None:
        super().__init__(Path(root) / BUSI_FILE, "group", splits, "busi")


class LungClips(VideoSource):
    """43 lung clips of 24 frames of 13 people; the label is nearly the recording's origin, so it is not read.

    J. Born et al., Applied Sciences 11(2):672, 2021.

    Args:
        root: The folder of ``lung_us_clips_112.npz``.
        validation: Patients, the last by number, whose clips are kept for validation.
    """

    def __init__(self, root: str | Path, validation: int = 0) -> None:
        if validation < 0:
            raise UsageError(f"data.source.validation must be at least 0, got {validation}")
        self.file, self.validation = Path(root).expanduser() / LUNG_FILE, validation

    def load(self) -> ClipSets:
        wanted = ("frames", "patient", "probe", "frames_per_second", "source_name")
        arrays = read_npz(self.file, set(wanted), "data.source.root")
        _require(arrays, wanted, self.file)
        frames, patient = arrays["frames"], arrays["patient"]
        people = np.unique(patient)
        if self.validation >= len(people):
            raise UsageError(
                f"data.source.validation must leave patients to train on, got {self.validation} of {len(people)}"
            )
        held = set(people[len(people) - self.validation :].tolist())
        reader = ArrayReader({str(n): frames[n] for n in range(len(frames))})
        parts: dict[bool, list[Clip]] = {False: [], True: []}
        for n in range(len(frames)):
            clip = Clip(
                video_id=str(arrays["source_name"][n]),
                path=str(self.file),
                frames=frames.shape[1],
                reader=reader,
                key=str(n),
                fps=float(arrays["frames_per_second"][n]),
                patient=str(patient[n]),
                machine=str(arrays["probe"][n]),
            )
            parts[int(patient[n]) in held].append(clip)
        return ClipSets("lung_us_clips", tuple(parts[False]), tuple(parts[True]))


def _require(arrays: dict[str, np.ndarray], names: Sequence[str], file: Path) -> None:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UsageError(f"data.source must be an archive with {', '.join(names)}, {file} lacks {', '.join(missing)}")
