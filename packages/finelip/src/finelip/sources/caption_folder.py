"""Pictures with a text file beside each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finelip.sources.captioned_files import CaptionedFiles, Record
from finelip.sources.pairs import checked_split
from finelip.sources.pictures import SUFFIXES
from shared.data.labelled_images import Provenance
from shared.data.split_names import SPLIT_NAMES
from shared.data.splits import stratified_split
from shared.errors import UsageError


class CaptionFolder(CaptionedFiles):
    """``root/train/**/NAME.jpg`` with ``NAME.txt`` beside it (``val``, ``test`` likewise), or the same below ``root``.

    The whole text is the caption, its line breaks included. Sorted by path; names that begin with a dot are left out.

    Args:
        root: The folder.
        split: What all pictures are for where there are no folders of splits.
        suffix: Of the texts.
        name: What the set is called; without it the folder's name.
        provenance: Whether the pictures are real, derived or synthetic.
        validation: Share of the pictures to hold out for validation where there are no folders of splits.
        test: Share to hold out for the test, likewise.
        split_seed: Of the held-out shares.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        suffix: str = ".txt",
        name: str | None = None,
        provenance: Provenance = "real",
        validation: float = 0.0,
        test: float = 0.0,
        split_seed: int = 73,
    ) -> None:
        super().__init__(root, name or Path(root).name, provenance)
        self.split, self.suffix = checked_split(split), suffix
        self.shares = {"test": test, "validation": validation}
        self.split_seed = split_seed
        for part, share in self.shares.items():
            if not 0 <= share < 1:
                raise UsageError(f"data.source.{part} must lie in [0, 1), got {share}")
        if test + validation >= 1:
            raise UsageError(
                f"data.source.validation and data.source.test must leave pictures to train on, "
                f"got {validation} and {test}"
            )
        if test + validation and split != "train":
            raise UsageError(f"data.source.split must be train where shares are held out, got {split}")

    def records(self, split: str) -> Sequence[Record]:
        folders = [
            folder for folder in sorted(self.root.iterdir()) if folder.is_dir() and folder.name.lower() in SPLIT_NAMES
        ]
        if not folders and any(self.shares.values()):
            return self._parts()[split]
        if not folders:
            return self._read(self.root) if split == self.split else []
        if any(self.shares.values()):
            raise UsageError(
                f"data.source.validation and data.source.test must be 0 where there are folders of splits, "
                f"{self.root} has {', '.join(folder.name for folder in folders)}"
            )
        return [
            record for folder in folders if SPLIT_NAMES[folder.name.lower()] == split for record in self._read(folder)
        ]

    def _parts(self) -> dict[str, list[Record]]:
        """All pictures, divided at random into what is held out and the rest."""
        found = self._read(self.root)
        rest, left = np.arange(len(found)), 1.0
        rows: dict[str, np.ndarray] = {}
        for number, (part, share) in enumerate(self.shares.items()):
            rows[part] = rest[:0]
            if share and found:
                rng = np.random.default_rng([self.split_seed, number])
                kept, held = stratified_split(np.zeros(len(rest), np.int64), share / left, rng)
                rest, rows[part], left = rest[kept], rest[held], left - share
        return {part: [found[row] for row in chosen] for part, chosen in (rows | {"train": rest}).items()}

    def _read(self, folder: Path) -> list[Record]:
        found: list[Record] = []
        before = None
        for path in sorted(folder.rglob("*")):
            below = path.relative_to(self.root)
            if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in below.parts):
                continue
            if path.with_suffix("") == before:
                raise UsageError(f"data.source.root must hold one picture per text, {path} is a second one of its name")
            before = path.with_suffix("")
            found.append(Record(below.as_posix(), self._text(path)))
        return found

    def _text(self, picture: Path) -> str:
        file = picture.with_suffix(self.suffix)
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except FileNotFoundError as error:
            raise UsageError(f"data.source.root must hold a text for every picture, {file} is missing") from error
        except (OSError, ValueError) as error:
            raise UsageError(
                f"data.source.root: every caption must be text in UTF-8, {file} is not ({error})"
            ) from error
        if not text:
            raise UsageError(f"data.source.root: every caption must hold text, {file} is empty")
        return text
