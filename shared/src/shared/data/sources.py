"""The contract of a reader: whatever the layout on disk, ``load()`` gives labelled training and evaluation sets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.errors import UsageError


@dataclass(frozen=True)
class ImageSets:
    """What a source holds; a set that it does not bring is ``None`` and can be split off the training set."""

    train: LabelledImages
    test: LabelledImages | None = None
    validation: LabelledImages | None = None


class Source(ABC):
    """A place that labelled images are read from. Building one touches no file; :meth:`load` does.

    Attributes:
        class_names: Names of the classes where they are known before anything is read, else ``None``.
        stored_channels: Channels of the stored pictures where they are known before anything is read, else ``None``.
    """

    class_names: Sequence[str] | None = None
    stored_channels: int | None = None

    @abstractmethod
    def load(self) -> ImageSets:
        """Read and check everything.

        Raises:
            UsageError: Something is missing, unreadable or contradictory; the sentence names the option and the place.
        """


def existing(path: str | Path, option: str, kind: str) -> Path:
    """The path, once it is known to exist.

    Args:
        path: A file or a folder; ``~`` is expanded.
        option: The option to name if it does not exist.
        kind: ``"file"`` or ``"folder"``.
    """
    found = Path(path).expanduser()
    if not (found.is_dir() if kind == "folder" else found.is_file()):
        raise UsageError(f"{option} must be an existing {kind}, got {path}")
    return found


def named_classes(train_labels: np.ndarray, declared: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The class names of integer labels: the declared ones, else the numbers ``0 .. max`` that occur in training.

    Raises:
        UsageError: Nothing was declared and a number below the largest never occurs: without names nobody can tell a
            rare class from a mistake.
    """
    if declared is not None:
        return tuple(declared)
    labels = np.asarray(train_labels)
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or len(labels) == 0 or labels.min() < 0:
        raise UsageError(f"data.source: labels must be integers from 0, one per image, {where} has other values")
    occurring = np.unique(labels)
    gaps = np.flatnonzero(occurring != np.arange(len(occurring)))
    if len(gaps):
        raise UsageError(
            f"data.source: every class must have an image unless data.source.class_names declares it, "
            f"{where} has none of class {gaps[0]}"
        )
    return tuple(str(number) for number in occurring)
