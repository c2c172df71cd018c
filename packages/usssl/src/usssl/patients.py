"""Nobody may be in two parts of the data: the check, and a split by patient over all classes at once."""

from collections.abc import Mapping, Sequence

import numpy as np

from shared.data.splits import check_no_leak, group_split
from shared.errors import UsageError


def check_patients(**parts: Sequence[str | None] | np.ndarray) -> None:
    """Make sure that no patient is in two parts; unknown patients (``None``) are not compared.

    Raises:
        UsageError: Names the parts and the patients.

    Example:
        >>> check_patients(train=["p1", "p2"], validation=["p3", None])
    """
    known = {part: np.array([str(p) for p in patients if p is not None]) for part, patients in parts.items()}
    check_no_leak("patient", **known)


def check_pretraining(seen: Mapping[str, Sequence[str]], data_name: str, tested: np.ndarray | None) -> None:
    """Make sure that a backbone has seen no frame of the patients that it will be tested on.

    Patients are compared within data of one name: number 12 of another hospital is somebody else.

    Args:
        seen: Patients of the pretraining by the name of their data, as its checkpoint records them.
        data_name: Name of the labelled data.
        tested: ``(N,)`` patient of every test image, or ``None`` where they are unknown.

    Raises:
        UsageError: Names the patients, or asks for them.
    """
    if not seen.get(data_name):
        return
    if tested is None:
        raise UsageError(
            f"data.patient must name the column of patients where the backbone was pretrained on {data_name} too, "
            "for nobody may be in both the pretraining and the test images"
        )
    check_patients(pretraining=seen[data_name], test=tested)


def patient_split(
    labels: np.ndarray, patients: np.ndarray, shares: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Divide images by patient, over all classes at once, greedily to the class ratios.

    Picking patients inside each class folder, as some tools do, puts one patient of two classes into two parts.

    Args:
        labels: ``(N,)`` integers.
        patients: ``(N,)`` patient of each image.
        shares: Of the images for each held-out part, e.g. ``{"test": 0.2, "validation": 0.1}``; the rest is ``train``.
        seed: Of the order of equally large patients.

    Returns:
        Ascending rows of each part, ``train`` last.

    Raises:
        UsageError: The shares leave nothing to train on, or there are too few patients.
    """
    if not all(0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise UsageError(f"the shares of held-out patients must be positive and sum to less than 1, got {dict(shares)}")
    rest, left, result = np.arange(len(labels)), 1.0, {}
    for number, (part, share) in enumerate(shares.items()):
        rng = np.random.default_rng([seed, number])
        kept, held = group_split(labels[rest], patients[rest], share / left, rng)
        result[part], rest, left = rest[held], rest[kept], left - share
    return result | {"train": rest}
