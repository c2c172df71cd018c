"""DOCCI: 15,000 photographs with human descriptions of about 136 words (Onoe et al., ECCV 2024)."""

from collections.abc import Sequence
from pathlib import Path

from finelip.sources.captioned_files import CaptionedFiles, Record, recorded_name
from finelip.sources.json_files import json_lines, text_at
from shared.data.labelled_images import Provenance
from shared.errors import UsageError

FILE = "docci_descriptions.jsonlines"
SPLITS = {"train": "train", "validation": "qual_dev", "test": "test"}
"""Our names to theirs; ``qual_test`` is left out."""


class Docci(CaptionedFiles):
    """``root/docci_descriptions.jsonlines`` and the pictures in ``images/`` or, as in FineLIP, ``test_images/``.

    A line is ``{"example_id", "split", "image_file", "description", …}``; 9,647 are for training, 5,000 for testing and
    the 100 of ``qual_dev`` for validation.

    Args:
        root: The folder.
        name: What the set is called; without it ``docci``, or the preset that wrote the folder.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(self, root: str | Path, name: str | None = None, provenance: Provenance | None = None) -> None:
        super().__init__(root, name or recorded_name(Path(root).expanduser(), "docci"), provenance)
        self._all: dict[str, list[Record]] | None = None

    def records(self, split: str) -> Sequence[Record]:
        if self._all is None:
            self._all = self._read()
        return self._all.get(SPLITS[split], [])

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        path = self.root / "images" / name
        other = self.root / "test_images" / name
        return other if not path.is_file() and other.is_file() else path

    def _read(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        seen: set[str] = set()
        for where, line in json_lines(self.root / FILE):
            example = text_at(line, "example_id", where)
            if example in seen:
                raise UsageError(f"data.source.root: every 'example_id' must occur once, {where} repeats {example}")
            seen.add(example)
            split = text_at(line, "split", where)
            record = Record(text_at(line, "image_file", where), text_at(line, "description", where))
            found.setdefault(split, []).append(record)
        unknown = found.keys() - {*SPLITS.values(), "qual_test"}
        if unknown:
            raise UsageError(
                f"data.source.root: every split must be one of train, test, qual_dev, qual_test, {self.root / FILE} "
                f"has {min(unknown)!r}"
            )
        return found
