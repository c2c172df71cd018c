"""What the readers share whose pictures are files in a folder."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from finelip.sources.pairs import SPLITS, Pair, PairSource, checked_split
from finelip.sources.pictures import opened
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError
from shared.prepare import RECORD

_LOOKED_AT = 20


class Record(NamedTuple):
    """A caption as a reader finds it.

    Attributes:
        name: Path of the picture below the folder of the pictures.
        caption: The long text.
        short: A short one, where there is one.
    """

    name: str
    caption: str
    short: str | None = None


class CaptionedFiles(PairSource, ABC):
    """Pictures in files and captions in memory; building one reads nothing but what ``prepare`` left in the folder.

    Args:
        root: The folder of the set.
        name: What the set is called.
        provenance: Whether the pictures are real, derived or synthetic; ``None`` takes what ``finelip prepare``
            recorded in the folder, and ``real`` where it wrote nothing.
    """

    def __init__(self, root: str | Path, name: str, provenance: Provenance | None = None) -> None:
        self.root = Path(root).expanduser()
        self.name = name
        self.provenance: Provenance = provenance or recorded_provenance(self.root)
        self._known: dict[str, Sequence[Pair]] = {}

    @abstractmethod
    def records(self, split: str) -> Sequence[Record]:
        """The captions of a split in the order of the set; none where it has no such split.

        Raises:
            UsageError: The files are missing or not as published.
        """

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        return self.root / name

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split; see :class:`~finelip.sources.pairs.PairSource`.

        Raises:
            UsageError: The files are missing or not as published, the set holds nothing at all, or none of the first
                pictures is there.
        """
        if checked_split(split) not in self._known:
            existing(self.root, "data.source.root", "folder")
            found = numbered(self.records(split))
            if not found and not any(self._known.get(other) or self.records(other) for other in SPLITS):
                raise UsageError(f"data.source.root must hold at least one caption, {self.root} holds none")
            check_first_pictures(map(self.file, dict.fromkeys(pair.name for pair in found[:_LOOKED_AT])))
            self._known[split] = found
        return self._known[split]

    def picture(self, split: str, index: int) -> Image.Image:
        """The picture of a pair, RGB; see :func:`~finelip.sources.pictures.opened`.

        Raises:
            OSError: It is missing or cannot be read.
        """
        return opened(self.file(self.pairs(split)[index].name))


def numbered(records: Iterable[Record]) -> list[Pair]:
    """Pairs that know which of them have one picture: ids count the pictures in the order of their first caption.

    Example:
        >>> [pair.image_id for pair in numbered([Record("b", "x"), Record("a", "y"), Record("b", "z")])]
        [0, 1, 0]
    """
    ids: dict[str, int] = {}
    return [Pair(name, caption, short, ids.setdefault(name, len(ids))) for name, caption, short in records]


def check_first_pictures(paths: Iterable[Path]) -> None:
    """Find out early that a folder is the wrong one; single missing pictures are counted where they are opened.

    Raises:
        UsageError: None of the pictures exists.
    """
    looked_at = list(paths)
    if looked_at and not any(path.is_file() for path in looked_at):
        more = f" and so are {len(looked_at) - 1} more" if len(looked_at) > 1 else ""
        raise UsageError(f"data.source.root must hold the pictures, but {looked_at[0]} is missing{more}")


def recorded_provenance(root: Path) -> Provenance:
    """What ``finelip prepare`` wrote of the pictures of a folder; ``real`` where it wrote nothing.

    Raises:
        UsageError: What it wrote was changed into something unknown.
    """
    value = _prepared(root).get("options", {}).get("provenance", "real")
    if value not in ("real", "derived", "synthetic"):
        raise UsageError(f"data.source.root: {root / RECORD} must name real, derived or synthetic, got {value!r}")
    return value


def recorded_name(root: Path, otherwise: str) -> str:
    """Which preset of ``finelip prepare`` wrote a folder; the layout's own name where none did."""
    return str(_prepared(root).get("preset", otherwise))


def _prepared(root: Path) -> dict[str, Any]:
    try:
        value = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("options"), dict) else {}


def unique(records: Sequence[Record], where: Path) -> Sequence[Record]:
    """The records, once it is known that each has a picture of its own.

    Raises:
        UsageError: A picture is listed twice.
    """
    seen: set[str] = set()
    for record in records:
        if record.name in seen:
            raise UsageError(f"data.source.root: every picture must be listed once, {where} has {record.name} twice")
        seen.add(record.name)
    return records
