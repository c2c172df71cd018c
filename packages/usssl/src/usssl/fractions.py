"""The share of the labels that is used: stratified by class, drawn by image or by patient, written to disk."""

import csv
import io
from typing import Literal

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.data.splits import group_split, stratified_fraction
from shared.errors import UsageError

SEED = 1792  # the reference's


def label_fraction(
    labels: np.ndarray,
    percent: float,
    class_names: tuple[str, ...],
    seed: int = SEED,
    nested: bool = False,
    patients: np.ndarray | None = None,
) -> np.ndarray:
    """Choose ``percent`` of the images.

    - By image, not nested, as the reference: the test side of scikit-learn's ``train_test_split`` of ``arange(n)`` with
      ``random_state=seed`` and ``stratify=labels``, sorted.
    - By image, nested: ``floor(f n_c + 1/2)`` images of each class ``c``; a smaller share is part of a larger one.
    - By patient: whole patients; not nested greedily to the class ratios, nested as the beginning of one fixed order of
      patients in which every next one keeps the classes as balanced as can be.

    Args:
        labels: ``(N,)`` integers.
        percent: In (0, 100].
        class_names: For the message.
        seed: Of the draw.
        nested: Make smaller shares parts of larger ones.
        patients: ``(N,)``; draws whole patients.

    Returns:
        Ascending rows.

    Raises:
        UsageError: ``percent`` is out of range, or a class that has images would have none left.
    """
    if not 0 < percent <= 100:
        raise UsageError(f"data.fraction must lie in (0, 100] percent, got {percent:g}")
    if percent == 100:
        return np.arange(len(labels))
    if patients is not None:
        chosen = (_nested_patients if nested else _patients)(labels, patients, percent / 100, seed)
    else:
        chosen = (_nested_images if nested else _images)(labels, percent / 100, seed)
    for number, name in enumerate(class_names):
        of_class = int((labels == number).sum())
        if of_class and not (labels[chosen] == number).any():
            raise UsageError(
                f"data.fraction must leave every class at least one image, "
                f"{percent:g} % leaves none of the {of_class} of {name}"
            )
    return chosen


def _images(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels, return_counts=True)
    wanted = int(np.ceil(share * len(labels)))
    if wanted < len(classes) or counts.min() < 2:
        # scikit-learn refuses these with messages of its own; the caller names the class that comes out empty.
        return _nested_images(labels, share, seed)
    _, chosen = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    return np.sort(chosen)


def _nested_images(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    chosen = stratified_fraction(labels, share, np.random.default_rng(seed))
    counts = np.bincount(labels)
    # stratified_fraction keeps one image of every class; here a class too small for the share is an error.
    return chosen[np.floor(share * counts + 0.5)[labels[chosen]] >= 1]


def _patients(labels: np.ndarray, patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    return group_split(labels, patients, share, np.random.default_rng(seed))[1]


def _nested_patients(labels: np.ndarray, patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    _, member = np.unique(patients, return_inverse=True)
    counts = np.zeros((member.max() + 1, labels.max() + 1))
    np.add.at(counts, (member, labels), 1)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    left = np.random.default_rng(seed).permutation(len(shares))
    taken, order = np.zeros(shares.shape[1]), []
    while len(left):
        after = taken + shares[left]
        best = int(np.argmin(after.var(axis=1) + 1e-12 * np.arange(len(left))))
        order.append(left[best])
        taken = after[best]
        left = np.delete(left, best)
    sizes = counts.sum(axis=1)[order]
    enough = int(np.searchsorted(np.cumsum(sizes), share * len(labels) - 1e-9)) + 1
    return np.flatnonzero(np.isin(member, order[:enough]))


def fraction_table(images: LabelledImages, rows: np.ndarray, columns: tuple[str, ...] = ()) -> str:
    """One CSV line per chosen image: ``index, file, label, class`` and further columns of the data."""
    table: dict[str, list[object]] = {"index": rows.tolist()}
    chosen = images.subset(rows)
    if chosen.files:
        table["file"] = list(chosen.files)
    table["label"] = chosen.labels.tolist()
    table["class"] = [images.class_names[label] for label in chosen.labels]
    table |= {name: chosen.columns[name].tolist() for name in columns if name in chosen.columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


FractionBy = Literal["image", "patient"]
