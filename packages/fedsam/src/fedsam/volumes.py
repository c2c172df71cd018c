"""A volume, a case that can be read, and the contract of a source of cases."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from shared.errors import UsageError

Provenance = Literal["real", "derived", "synthetic"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MIN_SLICES = 5


@dataclass
class Volume:
    """One scan, slices along the first axis. Not frozen, since Lightning moves no frozen dataclass to a device.

    Attributes:
        image: ``(Z, H, W)`` float32, or float16 where it was cached so.
        label: ``(Z, H, W)`` uint8, class 0 is background; ``None`` where nobody has drawn one.
        spacing: ``(3,)`` distance of neighbouring voxels in mm, in the order of the array's axes.
        site: The hospital or scanner.
        case: What the scan is called at its site.
        provenance: Whether the scan is real, derived from a real one, or synthetic.
        affine: ``(4, 4)`` from the array's indices (z, h, w) to millimetres; ``None`` where unknown.
        native_affine: ``(4, 4)`` of the file it was read from, whose axes may come in another order and direction.
    """

    image: np.ndarray
    label: np.ndarray | None
    spacing: np.ndarray
    site: str
    case: str
    provenance: Provenance = "real"
    affine: np.ndarray | None = None
    native_affine: np.ndarray | None = None

    @property
    def depth(self) -> int:
        """Number of slices."""
        return len(self.image)


@dataclass(frozen=True, kw_only=True)
class Case(ABC):
    """Something that a volume can be read from. Making one touches no voxel; :meth:`read` does.

    Attributes:
        site: The hospital or scanner.
        case: Its name, unique at the site.
        patient: Whom it shows, if that is known to be shared with other cases; else the case itself.
        provenance: Whether the scan is real, derived or synthetic.
    """

    site: str
    case: str
    patient: str | None = None
    provenance: Provenance = "real"

    @abstractmethod
    def read(self) -> Volume:
        """Decode, check and normalise.

        Raises:
            UsageError: The scan cannot be used; the sentence names it.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the outcome of :meth:`read`, ready for JSON: the key of the array cache."""


@dataclass(frozen=True)
class VolumeSets:
    """What a source holds.

    Attributes:
        name: What the data are called.
        class_names: ``background`` and the foreground classes in the order of their labels.
        train: Cases to train on.
        validation: Cases to validate on; may be empty.
        test: Cases to test on; may be empty.
        weights: Published weight of each site in the server's average, if there is one.

    Raises:
        UsageError: Nothing to train on, a case twice, or a patient in more than one set.
    """

    name: str
    class_names: tuple[str, ...]
    train: Sequence[Case]
    validation: Sequence[Case] = ()
    test: Sequence[Case] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.train:
            raise UsageError(f"data.source must hold at least one training case, {self.name} has none")
        check_disjoint(self)

    def cases(self, split: Split) -> Sequence[Case]:
        """The cases of one set."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites with training cases, in the order in which the source lists them."""
        return tuple(dict.fromkeys(case.site for case in self.train))


class VolumeSource(ABC):
    """A place that cases come from. Building one touches no file; :meth:`load` lists the cases."""

    @abstractmethod
    def load(self) -> VolumeSets:
        """List all cases.

        Raises:
            UsageError: Something is missing or contradictory; the sentence names the option and the place.
        """


def check_disjoint(sets: VolumeSets) -> None:
    """Refuse a case that is listed twice, and a patient in more than one of training, validation and test.

    Raises:
        UsageError: The sentence names up to three of the patients.
    """
    seen: set[tuple[str, str]] = set()
    splits: dict[tuple[str, str], dict[Split, None]] = {}
    for split in SPLITS:
        for case in sets.cases(split):
            splits.setdefault((case.site, case.patient or case.case), {})[split] = None
            if (case.site, case.case) in seen and len(splits[case.site, case.patient or case.case]) == 1:
                raise UsageError(
                    f"data.source: every case must be listed once, {sets.name} lists {case.case} of {case.site} twice"
                )
            seen.add((case.site, case.case))
    shared = [(patient, site, list(where)) for (site, patient), where in splits.items() if len(where) > 1]
    if shared:
        named = ", ".join(f"{patient} of {site} ({' and '.join(where)})" for patient, site, where in shared[:3])
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise UsageError(
            f"data.source: no patient may be in more than one of train, validation and test, "
            f"{sets.name} has {named}{more}"
        )


def label_classes(labels: Mapping[str, int | Sequence[int]]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names and the map from stored values to class numbers.

    Args:
        labels: Name of each foreground class to its value in the files, or to several values that it unites.

    Returns:
        ``("background", *names)`` and the class of every known value, with 0 for background.

    Raises:
        UsageError: No class, a value below 1, or a value claimed twice.

    Example:
        >>> label_classes({"kidney": [1, 3], "tumour": 2})
        (('background', 'kidney', 'tumour'), {0: 0, 1: 1, 3: 1, 2: 2})
    """
    if not labels:
        raise UsageError("data.source.labels must name at least one foreground class, got none")
    classes = {0: 0}
    for number, (name, values) in enumerate(labels.items(), start=1):
        for value in [values] if isinstance(values, int) else values:
            if value < 1 or value > 255 or value in classes:
                raise UsageError(
                    f"data.source.labels must give each class values of its own in 1..255, got {value} for {name}"
                )
            classes[value] = number
    return ("background", *labels), classes
