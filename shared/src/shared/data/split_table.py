"""A division among clients as a CSV file: written once, read back, looked at in any spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages
from shared.data.partition import Partition
from shared.data.sources import existing
from shared.errors import UsageError

_FIRST_ROW = 2  # as a spreadsheet counts: row 1 is the header


def split_table(
    images: LabelledImages, shares: Sequence[np.ndarray], columns: Mapping[str, np.ndarray] | None = None
) -> str:
    """One line per training picture: ``index, file, label, class, client`` and further ``columns``.

    Args:
        images: All training pictures; the column ``file`` is there if they are files.
        shares: The rows of each client, disjoint, together all.
        columns: ``(N,)`` more facts of each picture.
    """
    client = np.empty(len(images), np.int64)
    for number, rows in enumerate(shares):
        client[rows] = number
    table: dict[str, Sequence[object]] = {"index": range(len(images))}
    if images.files:
        table["file"] = images.files
    table["label"] = images.labels.tolist()
    table["class"] = [images.class_names[label] for label in images.labels]
    table["client"] = client.tolist()
    table |= {name: values.tolist() for name, values in (columns or {}).items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


@dataclass(frozen=True)
class FromTable(Partition):
    """The division that a CSV file holds, as :func:`split_table` writes it.

    The file has one row per training picture with its ``index`` in the training set and its ``client``; a column
    ``label``, if there is one, must agree with the pictures. Other columns are not read.

    Args:
        file: The CSV file.
        min_size: The fewest items that a client may own.
    """

    file: str
    min_size: int = 2

    def draw(
        self, labels: np.ndarray, clients: int, rng: np.random.Generator, columns: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        table = _integers(Path(self.file))
        index, client = table["index"], table["client"]
        if not np.array_equal(np.sort(index), np.arange(len(labels))):
            raise UsageError(
                f"data.partition.file must hold each of the {len(labels)} training images once (column index), "
                f"{self.file} has {len(np.unique(index))} different ones in {len(index)} rows"
            )
        if "label" in table and (wrong := np.flatnonzero(table["label"] != labels[index])).size:
            row = wrong[0]
            raise UsageError(
                f"data.partition.file must belong to these images: {self.file} says label {table['label'][row]} of "
                f"image {index[row]}, which has {labels[index[row]]} ({wrong.size} of {len(index)} rows differ)"
            )
        occurring = np.unique(client)
        if not np.array_equal(occurring, np.arange(clients)):
            raise UsageError(
                f"data.partition.file must name clients 0 .. {clients - 1} (data.clients), "
                f"{self.file} has {', '.join(map(str, occurring[:10]))}{', …' if len(occurring) > 10 else ''}"
            )
        sizes = np.bincount(client)
        if sizes.min() < self.min_size:
            raise UsageError(
                f"data.partition.file must give every client {self.min_size} images (data.partition.min_size), "
                f"{self.file} gives client {sizes.argmin()} only {sizes.min()}"
            )
        return [index[client == number] for number in range(clients)]


def _integers(path: Path) -> dict[str, np.ndarray]:
    """The columns ``index``, ``client`` and perhaps ``label``."""
    with existing(path, "data.partition.file", "file").open(newline="", encoding="utf-8-sig") as stream:
        try:
            reader = csv.DictReader(stream)
            names, rows = list(reader.fieldnames or []), list(reader)
        except (ValueError, csv.Error) as error:
            raise UsageError(f"data.partition.file must be a CSV file in UTF-8, got {path} ({error})") from error
    for name in ("index", "client"):
        if name not in names:
            raise UsageError(
                f"data.partition.file must have the columns index and client, {path} has {', '.join(names) or 'none'}"
            )
    columns: dict[str, np.ndarray] = {}
    for name in ("index", "client", "label"):
        if name in names:
            texts = [row[name] or "" for row in rows]
            for number, text in enumerate(texts, start=_FIRST_ROW):
                if not text.isdecimal():
                    raise UsageError(
                        f"data.partition.file: column {name} must hold whole numbers, "
                        f"{path} has {text!r} in row {number}"
                    )
            columns[name] = np.array([int(text) for text in texts], np.int64)
    return columns
