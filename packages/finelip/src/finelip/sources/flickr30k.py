"""Flickr30k: 31,783 photographs with five short captions (Young et al., TACL 2014)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finelip.sources.captioned_files import CaptionedFiles, Record
from finelip.sources.json_files import json_file, text_at
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError

FILE = "results_20130124.token"
FOLDERS = ("flickr30k-images", "Images", "images", "flickr30k_images")
CAPTIONS = 5


class Flickr30k(CaptionedFiles):
    """All pictures, as Long-CLIP and FineLIP evaluate, or Karpathy's 1,000, as most others do.

    The two differ by tens of points of recall, so the name says which: ``flickr30k-all`` or ``flickr30k-karpathy``.

    - Without ``karpathy``: ``root/results_20130124.token``, lines ``NAME.jpg#k<TAB>caption``, five in a row per
      picture; all 158,915 captions are for testing.
    - With it: Karpathy's ``dataset_flickr30k.json``, ``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``,
      29,000, 1,014 and 1,000 pictures; the first five sentences of each.

    Args:
        root: The folder; the pictures lie in ``flickr30k-images/`` or ``Images/``.
        karpathy: The file of the split, below the root or an absolute path.
        name: What the set is called, in place of the above.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self,
        root: str | Path,
        karpathy: str | None = None,
        name: str | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        which = "flickr30k-all" if karpathy is None else "flickr30k-karpathy"
        super().__init__(root, name or which, provenance)
        self.karpathy = None if karpathy is None else self.root / karpathy

    def records(self, split: str) -> Sequence[Record]:
        if self.karpathy is not None:
            return _karpathy(self.karpathy, split)
        return _tokens(self.root / FILE) if split == "test" else []

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        for folder in FOLDERS:
            if (self.root / folder / name).is_file():
                return self.root / folder / name
        return self.root / FOLDERS[0] / name


def _tokens(path: Path) -> Sequence[Record]:
    found: list[Record] = []
    table = existing(path, "data.source.root", "file")
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")
    except ValueError as error:
        raise UsageError(f"data.source.root: {path.name} must be text in UTF-8, {path} is not ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        first, tab, caption = line.partition("\t")
        place = len(found) % CAPTIONS
        name = first[:-2] if not place else found[-1].name
        if not tab or first != f"{name}#{place}" or not caption.strip():
            raise UsageError(
                f"data.source.root: lines must be NAME#k, a tab and a caption with k = 0 to 4 in turn, line {number} "
                f"of {path} is {line[:60]!r}"
            )
        found.append(Record(name, caption.strip()))
    if len(found) % CAPTIONS:
        raise UsageError(f"data.source.root: every picture must have five captions, the last of {path} has fewer")
    return _once(found, path)


def _karpathy(path: Path, split: str) -> Sequence[Record]:
    value = json_file(path, "data.source.karpathy")
    images = value.get("images") if isinstance(value, dict) else None
    if not isinstance(images, list):
        raise UsageError(f"data.source.karpathy must hold a list 'images', {path} does not")
    wanted = {"validation": "val"}.get(split, split)
    found: list[Record] = []
    for place, image in enumerate(images):
        where = f"picture {place} of {path}"
        name = text_at(image, "filename", where, "data.source.karpathy")
        if text_at(image, "split", where, "data.source.karpathy") != wanted:
            continue
        sentences: Any = image.get("sentences")
        if not isinstance(sentences, list) or len(sentences) < CAPTIONS:
            raise UsageError(f"data.source.karpathy: every picture must have five 'sentences', {where} has not")
        found += [
            Record(name, text_at(sentence, "raw", where, "data.source.karpathy")) for sentence in sentences[:CAPTIONS]
        ]
    return _once(found, path)


def _once(records: Sequence[Record], path: Path) -> Sequence[Record]:
    names = [record.name for record in records[::CAPTIONS]]
    if len(set(names)) < len(names):
        again = next(name for place, name in enumerate(names) if name in names[:place])
        raise UsageError(f"data.source.root: every picture must be listed once, {path} has {again} twice")
    return records
