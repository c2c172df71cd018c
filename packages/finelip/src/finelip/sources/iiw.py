"""ImageInWords: long human descriptions of pictures of DCI and DOCCI (Garg et al., EMNLP 2024); for testing."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finelip.sources.captioned_files import CaptionedFiles, Record, unique
from finelip.sources.json_files import json_lines, text_at
from shared.data.labelled_images import Provenance
from shared.errors import UsageError


class Part(NamedTuple):
    """Where a part has its annotations and its pictures."""

    annotations: str
    pictures: str


PARTS = {
    "docci": Part("DOCCI_Test", "docci"),
    "iiw-400": Part("IIW-400", "docci_aar"),
    "dci": Part("DCI_Test", "dci"),
}


class Iiw(CaptionedFiles):
    """``ANNOTATIONS/{DOCCI_Test,IIW-400,DCI_Test}/data.jsonl`` and ``root/{docci,docci_aar,dci}/*.jpg``.

    The caption is ``IIW``; the picture is named by ``image`` or ``image/key``, with or without ``.jpg``. Pictures of
    DOCCI may carry their earlier name, ``train`` in place of ``test``.

    Args:
        root: The folder of the pictures.
        annotations: The folder ``datasets`` of google/imageinwords; without it the root.
        parts: Which of ``docci``, ``iiw-400`` and ``dci``, in this order.
        name: What the set is called.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self,
        root: str | Path,
        annotations: str | Path | None = None,
        parts: Sequence[str] = tuple(PARTS),
        name: str = "iiw",
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__(root, name, provenance)
        if not parts or len(set(parts)) < len(parts) or not set(parts) <= PARTS.keys():
            raise UsageError(f"data.source.parts must be some of {', '.join(PARTS)}, got {', '.join(parts) or 'none'}")
        self.annotations = self.root if annotations is None else Path(annotations).expanduser()
        self.parts = tuple(parts)

    def records(self, split: str) -> Sequence[Record]:
        if split != "test":
            return []
        found: list[Record] = []
        for part in self.parts:
            file = self._annotations(PARTS[part].annotations)
            records = []
            for where, line in json_lines(file, "data.source.annotations"):
                key = "image" if "image" in line else "image/key"
                picture = text_at(line, key, where, "data.source.annotations")
                picture = picture if picture.lower().endswith(".jpg") else f"{picture}.jpg"
                text = text_at(line, "IIW", where, "data.source.annotations")
                records.append(Record(f"{PARTS[part].pictures}/{picture}", text))
            found += unique(records, file)
        return found

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        path = self.root / name
        earlier = path.with_name(path.name.replace("test", "train"))
        return earlier if not path.is_file() and earlier.is_file() else path

    def _annotations(self, folder: str) -> Path:
        """Some copies write the folders' names in other cases."""
        for path in sorted(self.annotations.glob("*/data.jsonl")):
            if path.parent.name.lower() == folder.lower():
                return path
        return self.annotations / folder / "data.jsonl"
