"""Labelled pictures in CSV tables, as the paper's and the public plane data sets have them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from shared.data.labelled_images import LabelledImages, Provenance
from shared.data.sources import ImageSets, Source, existing
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError

Row = Mapping[str, str]
Filters = Mapping[Literal["whitelist", "blacklist"], Mapping[str, Sequence[str | int]]]


class PlaneCsv(Source):
    """Tables with one row per picture: one for each split, or one with a column that tells the split.

    Class names are the sorted ones of the training rows, so their numbers do not depend on the other tables; a class
    that is in another split alone is an error. Columns are known without blanks around their names, and all are kept.

    Args:
        train: The training table, or the only one.
        root: The folder that pictures are relative to; ``None`` takes that of the training table.
        validation: The validation table.
        test: The test table.
        image: Column of the picture's path.
        label: Column of the class.
        patient: Column of the patient; without it the patient is what the file's name holds before the first ``_``.
        split: Column that tells the split, where there is a single table.
        splits: What its values mean, e.g. ``{"1": "train", "0": "test"}``, beside the usual names.
        filters: ``{whitelist: {column: [values]}}`` keeps rows whose columns all have a listed value,
            ``{blacklist: {column: [values]}}`` drops rows with any; not both.
        delimiter: Between fields.
        suffix: Added to every path, for tables that leave ``.png`` out.
        name: What the data are called; without it the training table's name.
        provenance: Whether the pictures are real, derived or synthetic.
    """

    def __init__(
        self,
        train: str | Path,
        root: str | Path | None = None,
        validation: str | Path | None = None,
        test: str | Path | None = None,
        image: str = "image_path",
        label: str = "class",
        patient: str | None = None,
        split: str | None = None,
        splits: Mapping[str, str] | None = None,
        filters: Filters | None = None,
        delimiter: str = ",",
        suffix: str = "",
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        unknown = set(filters or {}) - {"whitelist", "blacklist"}
        if unknown:
            raise UsageError(f"data.source.filters must be whitelist or blacklist, got {', '.join(sorted(unknown))}")
        if len(filters or {}) > 1:
            raise UsageError("data.source.filters must be a whitelist or a blacklist, got both")
        if split is not None and (validation or test):
            raise UsageError(f"data.source.split must be left out where there are tables for each split, got {split!r}")
        self.tables = {"train": Path(train)}
        self.tables |= {p: Path(t) for p, t in (("validation", validation), ("test", test)) if t is not None}
        self.root = Path(train).parent if root is None else Path(root)
        self.image, self.label, self.patient, self.split = image, label, patient, split
        if len(delimiter) != 1:
            raise UsageError(f"data.source.delimiter must be one character, got {delimiter!r}")
        for value in (splits or {}).values():
            if value not in SPLIT_NAMES:
                raise UsageError(f"data.source.splits must stand for some of {', '.join(SPLIT_NAMES)}, got {value!r}")
        self.splits = SPLIT_NAMES | {key: SPLIT_NAMES[value] for key, value in (splits or {}).items()}
        self.filters = dict(filters or {})
        self.delimiter, self.suffix = delimiter, suffix
        self.name = name if name is not None else self.tables["train"].stem
        self.provenance: Provenance = provenance

    def image_of(self, row: Row) -> str:
        """Path of the row's picture below the root."""
        return row[self.image] + self.suffix

    def patient_of(self, row: Row) -> str:
        """Whose picture it is."""
        return row[self.patient] if self.patient else Path(row[self.image]).name.split("_")[0]

    def keeps(self, row: Row) -> bool:
        """Whether the filters let the row pass."""
        if "whitelist" in self.filters:
            return all(row[column] in map(str, values) for column, values in self.filters["whitelist"].items())
        return not any(row[column] in map(str, values) for column, values in self.filters.get("blacklist", {}).items())

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        parts: dict[str, list[dict[str, str]]] = {}
        for part, file in self.tables.items():
            rows = read_rows(existing(file, f"data.source.{part}", "file"), self.delimiter, f"data.source.{part}")
            self._check_columns(file, rows[0])
            for number, row in enumerate(rows, start=2):
                if self.keeps(row):
                    if not row[self.label]:
                        raise UsageError(
                            f"data.source.label: every row must have a class, {file} has an empty {self.label} in row "
                            f"{number}"
                        )
                    parts.setdefault(self._part(part, row, file, number), []).append(row)
        if "train" not in parts:
            raise UsageError(f"data.source.train must hold a row to train on, {self.tables['train']} has none")
        classes = tuple(sorted({row[self.label] for row in parts["train"]}))
        return ImageSets(**{part: self._labelled(part, rows, root, classes) for part, rows in parts.items()})

    def _check_columns(self, file: Path, row: Row) -> None:
        filtered = {f"filters ({column})": column for columns in self.filters.values() for column in columns}
        named = {"image": self.image, "label": self.label, "patient": self.patient, "split": self.split} | filtered
        for option, column in named.items():
            if column is not None and column not in row:
                raise UsageError(
                    f"data.source.{option} must name a column of {file.name}, got {column!r} of {', '.join(row)}"
                )

    def _part(self, part: str, row: Row, file: Path, number: int) -> str:
        if self.split is None:
            return part
        value = row[self.split].strip()
        found = self.splits.get(value) or self.splits.get(value.lower())
        if found is None:
            raise UsageError(
                f"data.source.split must name a column whose values are some of {', '.join(self.splits)}, "
                f"{file.name} holds {value!r} in row {number}"
            )
        return found

    def _labelled(
        self, part: str, rows: Sequence[dict[str, str]], root: Path, classes: tuple[str, ...]
    ) -> LabelledImages:
        known = {name: number for number, name in enumerate(classes)}
        for row in rows:
            if row[self.label] not in known:
                raise UsageError(
                    f"data.source: every class of {part} must occur in training ({', '.join(classes)}), "
                    f"got {row[self.label]!r}"
                )
            if not (root / self.image_of(row)).is_file():
                raise UsageError(
                    f"data.source.root: every picture must be an existing file, {root / self.image_of(row)} is none"
                )
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return LabelledImages(
            [root / self.image_of(row) for row in rows],
            np.array([known[row[self.label]] for row in rows]),
            classes,
            name=f"{self.name} {part}",
            provenance=self.provenance,
            columns=columns | {"patient_id": np.array([self.patient_of(row) for row in rows])},
        )


def read_rows(file: Path, delimiter: str, option: str) -> list[dict[str, str]]:
    """The rows of a table with a header, blanks around names and values taken away.

    Raises:
        UsageError: It is no table, has no row, or a row has another number of fields.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header, *lines = [line for line in csv.reader(stream, delimiter=delimiter) if line] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{option} must be a CSV file in UTF-8 with a header, got {file} ({error})") from error
    if not header:
        raise UsageError(f"{option} must be a CSV file in UTF-8 with a header, got {file}, which is empty")
    if not lines:
        raise UsageError(f"{option} must have at least one row below the header, {file} has none")
    names = [name.strip() for name in header]
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise UsageError(
                f"{option}: every row must have the {len(names)} fields of the header, {file} has {len(line)} in row "
                f"{number}"
            )
    return [dict(zip(names, (value.strip() for value in line), strict=True)) for line in lines]


class CommonClasses(Source):
    """Training and validation images of one source, test images of another, restricted to the classes of both.

    Args:
        train: The source to train on; its own test set is not used.
        test: The source to test on; all of its images are taken.
    """

    def __init__(self, train: Source, test: Source) -> None:
        self.train, self.test = train, test

    def load(self) -> ImageSets:
        ours, theirs = self.train.load(), self.test.load()
        common = tuple(name for name in ours.train.class_names if name in theirs.train.class_names)
        if len(common) < 2:
            raise UsageError(
                f"data.source.test must share two classes with data.source.train, "
                f"{theirs.train.name} and {ours.train.name} share {', '.join(common) or 'none'}"
            )
        tests = [part for part in (theirs.train, theirs.validation, theirs.test) if part is not None]
        return ImageSets(
            train=_restricted([ours.train], common, ours.train.name),
            validation=None
            if ours.validation is None
            else _restricted([ours.validation], common, ours.validation.name),
            test=_restricted(tests, common, f"{tests[0].name.removesuffix(' train')} test"),
        )


def _restricted(parts: Sequence[LabelledImages], classes: tuple[str, ...], name: str) -> LabelledImages:
    files: list[str] = []
    labels, columns = [], []
    for part in parts:
        numbers = np.array([classes.index(c) if c in classes else -1 for c in part.class_names])[part.labels]
        kept = part.subset(np.flatnonzero(numbers >= 0))
        if not kept.files:
            raise UsageError(f"data.source: {part.name} must consist of picture files to be joined with another source")
        files += kept.files
        labels.append(numbers[numbers >= 0])
        columns.append(kept.columns)
    shared = set.intersection(*(set(c) for c in columns))
    return LabelledImages(
        files,
        np.concatenate(labels),
        classes,
        name=name,
        provenance=parts[0].provenance,
        columns={key: np.concatenate([c[key] for c in columns]) for key in sorted(shared)},
    )
