"""Densely Captioned Images (Urbanek et al., CVPR 2024), and Long-DCI as of TULIP (Najdenkoska et al., ICLR 2025)."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from finelip.sources.captioned_files import CaptionedFiles, Record, unique
from finelip.sources.json_files import json_file, text_at
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError

SPLITS = {"train": "train", "validation": "valid", "test": "test"}
"""Our names to theirs."""


class _DciFiles(CaptionedFiles):
    """``root[/densely_captioned_images]`` with ``annotations/*.json`` and ``photos/*.jpg``."""

    def file(self, name: str) -> Path:
        """Where a picture lies."""
        return self._folder / "photos" / name

    @property
    def _folder(self) -> Path:
        below = self.root / "densely_captioned_images"
        return below if below.is_dir() else self.root

    def _annotation(self, file: Path) -> tuple[str, str, str]:
        """The picture, the short and the extra caption, of which one may be empty."""
        value = json_file(file)
        if not isinstance(value, dict):
            raise UsageError(f"data.source.root: every annotation must be a JSON object, {file} is not")
        short, extra = (_text(value, key, file) for key in ("short_caption", "extra_caption"))
        return text_at(value, "image", str(file)), short, extra


def _text(annotation: dict[str, Any], key: str, file: Path) -> str:
    text = annotation.get(key)
    if not isinstance(text, str):
        raise UsageError(f"data.source.root: every annotation must have a text {key!r}, {file} has {text!r}")
    return text.strip()


class Dci(_DciFiles):
    """The splits of ``splits.json``, which lists the annotation files of ``train``, ``valid`` and ``test``.

    Args:
        root: The folder, or the one above it.
        captions: The ``short`` caption, the ``extra`` one, or both ``joined`` by a line break, short one first.
        name: What the set is called.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self,
        root: str | Path,
        captions: Literal["joined", "extra", "short"] = "joined",
        name: str = "dci",
        provenance: Provenance | None = None,
    ) -> None:
        if captions not in ("joined", "extra", "short"):
            raise UsageError(f"data.source.captions must be joined, extra or short, got {captions!r}")
        super().__init__(root, name, provenance)
        self.captions = captions

    def records(self, split: str) -> Sequence[Record]:
        table = self._folder / "splits.json"
        names: Any = json_file(table)
        names = names.get(SPLITS[split], []) if isinstance(names, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"data.source.root: splits.json must list the annotations of each split, {table} does not")
        found = []
        for name in names:
            file = self._folder / "annotations" / name
            picture, short, extra = self._annotation(file)
            text = {"short": short, "extra": extra, "joined": f"{short}\n{extra}".strip()}[self.captions]
            if not text:
                raise UsageError(
                    f"data.source.captions: every annotation must have a text of its kind, {file} has none"
                )
            found.append(Record(picture, text, short or None))
        return unique(found, table)


class LongDci(_DciFiles):
    """Every annotation with an extra caption, sorted by file name; all of it for testing.

    The text is ``extra_caption`` alone. Published counts go from about 7,000 to 7,602: what is there is counted.

    Args:
        root: The folder of DCI, or the one above it.
        table: TULIP's own table in place of the annotations, ``dci_long.csv``: tab-separated, with the columns
            ``filepath`` and ``title``; below the root or an absolute path.
        name: What the set is called.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self,
        root: str | Path,
        table: str | None = None,
        name: str = "long-dci",
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__(root, name, provenance)
        self.table = table

    def records(self, split: str) -> Sequence[Record]:
        if split != "test":
            return []
        if self.table is not None:
            return self._listed(existing(self.root / self.table, "data.source.table", "file"))
        folder = existing(self._folder / "annotations", "data.source.root", "folder")
        read = map(self._annotation, sorted(folder.glob("*.json")))
        return unique([Record(picture, extra, short or None) for picture, short, extra in read if extra], folder)

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie: TULIP's tables name pictures with or without their folder."""
        path = super().file(name)
        return self.root / name if not path.is_file() and (self.root / name).is_file() else path

    def _listed(self, path: Path) -> Sequence[Record]:
        found = []
        with path.open(newline="", encoding="utf-8-sig") as stream:
            try:
                for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), start=2):
                    where = f"row {number} of {path}"
                    found.append(
                        Record(
                            text_at(row, "filepath", where, "data.source.table"),
                            text_at(row, "title", where, "data.source.table"),
                        )
                    )
            except (UnicodeDecodeError, csv.Error) as error:
                raise UsageError(
                    f"data.source.table must be tab-separated text in UTF-8, got {path} ({error})"
                ) from error
        return unique(found, path)
