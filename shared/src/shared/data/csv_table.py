"""A table with one row per picture file: the layout of Fed-ISIC2019 and of most exported splits."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages, Provenance
from shared.data.sources import ImageSets, Source, existing, named_classes
from shared.data.split_names import rows_by_split
from shared.errors import UsageError

_FIRST_ROW = 2  # as a spreadsheet counts: row 1 is the header


@dataclass(frozen=True)
class _Table:
    path: Path
    option: str
    columns: dict[str, list[str]]

    def column(self, name: str, option: str) -> list[str]:
        if name not in self.columns:
            raise UsageError(
                f"{option} must name a column of {self.path.name}, got {name!r} of {', '.join(self.columns)}"
            )
        return self.columns[name]


class CsvTable(Source):
    """Pictures listed in a CSV file with a header, decoded when they are used.

    Args:
        csv: The table, or the training table.
        root: The folder that picture names are relative to.
        image: Column of the picture names.
        label: Column of the classes: names, or integers from 0.
        split: Column that says ``train``, ``val`` or ``test``; without it all rows of ``csv`` are for training.
        test_csv: A second table with the test pictures; ``split`` then only divides training and validation.
        test_root: The folder of the pictures of ``test_csv``; without it ``root``.
        suffix: Added to every picture name, for tables that leave out ``.jpg``.
        class_names: Names of the classes; without them the numbers, or the sorted names, that occur in training.
        name: What the set is called; without it the table's name.
        provenance: Whether the pictures are real, derived or synthetic.

    All other columns are kept, as integers where every value is one, else as text.
    """

    def __init__(
        self,
        csv: str | Path,
        root: str | Path,
        image: str = "image",
        label: str = "label",
        split: str | None = None,
        test_csv: str | Path | None = None,
        test_root: str | Path | None = None,
        suffix: str = "",
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        self.csv = Path(csv)
        self.root = Path(root)
        self.image, self.label, self.split, self.suffix = image, label, split, suffix
        self.test_csv = None if test_csv is None else Path(test_csv)
        self.test_root = self.root if test_root is None else Path(test_root)
        self.class_names = class_names
        self.name = name if name is not None else self.csv.stem
        self.provenance: Provenance = provenance

    def load(self) -> ImageSets:
        table = _read_table(self.csv, "data.source.csv")
        root = existing(self.root, "data.source.root", "folder")
        parts = {"train": np.arange(len(table.column(self.image, "data.source.image")))}
        if self.split is not None:
            parts = rows_by_split(table.column(self.split, "data.source.split"), self.csv.name, _FIRST_ROW)
        classes = self._classes(table, parts["train"])
        sets = {part: self._labelled(part, table, rows, root, classes) for part, rows in parts.items()}
        if self.test_csv is not None:
            if "test" in sets:
                raise UsageError(
                    f"data.source.test_csv must be left out if column {self.split!r} of {self.csv.name} "
                    f"already marks test rows, got {self.test_csv}"
                )
            test = _read_table(self.test_csv, "data.source.test_csv")
            rows = np.arange(len(test.column(self.image, "data.source.image")))
            test_root = existing(self.test_root, "data.source.test_root", "folder")
            sets["test"] = self._labelled("test", test, rows, test_root, classes)
        return ImageSets(**sets)

    def _classes(self, table: _Table, train_rows: np.ndarray) -> tuple[str, ...]:
        values = np.array(table.column(self.label, "data.source.label"))[train_rows]
        if self.class_names is None and not all(map(_is_integer, values)):
            return tuple(sorted(set(values.tolist())))
        numbers = values.astype(np.int64) if self.class_names is None else np.empty(0, np.int64)
        return named_classes(numbers, self.class_names, self.csv.name)

    def _labelled(
        self, part: str, table: _Table, rows: np.ndarray, root: Path, classes: tuple[str, ...]
    ) -> LabelledImages:
        names = table.column(self.image, "data.source.image")
        texts = table.column(self.label, "data.source.label")
        paths = [root / f"{names[row]}{self.suffix}" for row in rows]
        for row, path in zip(rows, paths, strict=True):
            if not path.is_file():
                raise UsageError(
                    f"{table.option}: every image must exist, {table.path.name} names {path} in row {row + _FIRST_ROW}"
                )
        known = {name: number for number, name in enumerate(classes)}
        labels = np.array([_class_number(texts[row], known, table, row) for row in rows])
        others = {
            name: _typed([values[row] for row in rows])
            for name, values in table.columns.items()
            if name not in (self.image, self.label, self.split)
        }
        return LabelledImages(
            paths, labels, classes, name=f"{self.name} {part}", provenance=self.provenance, columns=others
        )


def _read_table(path: Path, option: str) -> _Table:
    with existing(path, option, "file").open(newline="", encoding="utf-8-sig") as stream:
        try:
            header, *rows = (row for row in csv.reader(stream) if row)  # editors leave blank lines at the end
        except (ValueError, csv.Error) as error:
            raise UsageError(f"{option} must be a CSV file in UTF-8 with a header, got {path} ({error})") from error
    if not rows:
        raise UsageError(f"{option} must have at least one row below the header, {path} has none")
    for number, row in enumerate(rows, start=_FIRST_ROW):
        if len(row) != len(header):
            raise UsageError(
                f"{option}: every row must have the {len(header)} fields of the header, "
                f"{path} has {len(row)} in row {number}"
            )
    return _Table(
        path, option, {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    )


def _class_number(text: str, known: dict[str, int], table: _Table, row: int) -> int:
    if text in known:
        return known[text]
    if _is_integer(text) and 0 <= int(text) < len(known):
        return int(text)
    raise UsageError(
        f"data.source.label: classes must be one of {', '.join(known)} or a number in 0..{len(known) - 1}, "
        f"{table.path.name} holds {text!r} in row {row + _FIRST_ROW}"
    )


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _typed(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.int64) if all(map(_is_integer, values)) else np.array(values)
