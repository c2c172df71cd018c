"""Nobody may be in two parts of the data: the check, and a split by patient over all classes at once."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import pbkdf2_hmac

import numpy as np

from shared.data.splits import check_no_leak, group_split
from shared.errors import UsageError

ROUNDS = 10_000
_PSEUDONYM = re.compile(r"patient-[0-9a-f]{16}")


@cache
def pseudonym(patient: str) -> str:
    """What stands for a patient in every file that is written; the same patient always gets the same.

    A slow hash (PBKDF2 over SHA-256), so that it can be compared and not read back. Whoever has a list of identifiers
    can still try each of them: it is a pseudonym, not anonymous. A pseudonym stays as it is.

    Example:
        >>> pseudonym("12") == pseudonym(pseudonym("12")) != pseudonym("13")
        True
    """
    if _PSEUDONYM.fullmatch(patient):
        return patient
    return f"patient-{pbkdf2_hmac('sha256', patient.encode(), b'usssl patient', ROUNDS)[:8].hex()}"


def check_patients(**parts: Sequence[str | None] | np.ndarray) -> None:
    """Make sure that no patient is in two parts; unknown patients (``None``) are not compared.

    Raises:
        UsageError: Names the parts and the patients.

    Example:
        >>> check_patients(train=["p1", "p2"], validation=["p3", None])
    """
    known = {part: np.array([str(p) for p in patients if p is not None]) for part, patients in parts.items()}
    try:
        check_no_leak("patient", **known)
    except UsageError as error:
        raise UsageError(f"data.source: {error}") from error


def check_pretraining(seen: Mapping[str, Sequence[str]], data_name: str, tested: np.ndarray | None) -> None:
    """Make sure that a backbone has seen no frame of the patients that it will be tested on.

    Patients are compared within data of one name: number 12 of another hospital is somebody else.

    Args:
        seen: Patients of the pretraining by the name of their data, as its checkpoint records them (pseudonyms).
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
    known = {pseudonym(patient) for patient in seen[data_name]}
    names = list(dict.fromkeys(str(patient) for patient in tested))
    check_patients(pretraining=[name for name in names if pseudonym(name) in known], test=names)


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
        given = " and ".join(f"data.{part} {share:g}" for part, share in shares.items())
        raise UsageError(f"shares to hold out must be positive and sum to less than 1, got {given}")
    rest, left, result = np.arange(len(labels)), 1.0, {}
    for number, (part, share) in enumerate(shares.items()):
        rng = np.random.default_rng([seed, number])
        try:
            kept, held = group_split(labels[rest], patients[rest], share / left, rng)
        except UsageError as error:
            raise UsageError(f"data.{part} {share:g} of {len(np.unique(patients))} patients: {error}") from error
        result[part], rest, left = rest[held], rest[kept], left - share
    return result | {"train": rest}
