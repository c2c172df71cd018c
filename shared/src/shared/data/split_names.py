"""How the parts of a data set are called in the wild, and what each means here."""

from collections.abc import Sequence

import numpy as np

from shared.errors import UsageError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


def rows_by_split(values: Sequence[str], where: str, first_row: int = 0) -> dict[str, np.ndarray]:
    """Row indices of ``train``, ``validation`` and ``test``; parts without rows are left out.

    Raises:
        UsageError: A value is none of :data:`SPLIT_NAMES`, or no row is for training.
    """
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        part = SPLIT_NAMES.get(value.strip().lower())
        if part is None:
            raise UsageError(
                f"data.source.split must name a column of {', '.join(SPLIT_NAMES)}, "
                f"{where} holds {value!r} in row {row + first_row}"
            )
        rows.setdefault(part, []).append(row)
    if "train" not in rows:
        raise UsageError(f"data.source.split must mark at least one row for training, {where} has none")
    return {part: np.array(index) for part, index in rows.items()}
