"""COCO 2017: photographs with five short captions (Lin et al., ECCV 2014; Chen et al., 2015)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finelip.sources.captioned_files import CaptionedFiles, Record
from finelip.sources.json_files import json_file, text_at
from shared.data.labelled_images import Provenance
from shared.errors import UsageError

FOLDERS = {"train": "train2017", "test": "val2017"}


class CocoCaptions(CaptionedFiles):
    """``root/annotations/captions_val2017.json`` and ``root/[images/]val2017/*.jpg`` for testing.

    ``train2017`` likewise for training. Pictures are taken in the order of their ids, and of each the first
    ``captions`` captions in the order of the file: 25,000 pairs of 5,000 pictures for testing. The training part is
    empty where its annotations are missing.

    Args:
        root: The folder.
        captions: How many of each picture; one with fewer is refused.
        name: What the set is called.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self, root: str | Path, captions: int = 5, name: str = "coco", provenance: Provenance | None = None
    ) -> None:
        if captions < 1:
            raise UsageError(f"data.source.captions must be at least 1, got {captions}")
        super().__init__(root, name, provenance)
        self.captions = captions

    def records(self, split: str) -> Sequence[Record]:
        if split not in FOLDERS:
            return []
        path = self.root / "annotations" / f"captions_{FOLDERS[split]}.json"
        if split == "train" and not path.is_file():
            return []
        value = json_file(path)
        images, annotations = (_list(value, key, path) for key in ("images", "annotations"))
        names = _names(images, path)
        texts: dict[int, list[str]] = {number: [] for number in names}
        seen: set[Any] = set()
        for place, annotation in enumerate(annotations):
            where = f"annotation {place} of {path}"
            if annotation.get("image_id") not in texts:
                raise UsageError(
                    f"data.source.root: every annotation must belong to a picture, {where} names "
                    f"{annotation.get('image_id')!r}"
                )
            if annotation.get("id") in seen:
                raise UsageError(
                    f"data.source.root: every id must occur once, {where} repeats {annotation.get('id')!r}"
                )
            seen.add(annotation.get("id"))
            texts[annotation["image_id"]].append(text_at(annotation, "caption", where))
        found = []
        for number in sorted(names):
            if len(texts[number]) < self.captions:
                raise UsageError(
                    f"data.source.captions must be at most what every picture has, got {self.captions}, and picture "
                    f"{number} of {path} has {len(texts[number])}"
                )
            found += [Record(f"{FOLDERS[split]}/{names[number]}", text) for text in texts[number][: self.captions]]
        return found

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        path, other = self.root / name, self.root / "images" / name
        return other if not path.is_file() and other.is_file() else path


def _list(value: Any, key: str, path: Path) -> list[dict[str, Any]]:
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"data.source.root: {path.name} must hold a list of objects {key!r}, {path} does not")
    return items


def _names(images: list[dict[str, Any]], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, image in enumerate(images):
        where = f"picture {place} of {path}"
        number = image.get("id")
        if not isinstance(number, int):
            raise UsageError(f"data.source.root: every picture must have a whole number 'id', {where} has {number!r}")
        if number in names:
            raise UsageError(f"data.source.root: every id must occur once, {where} repeats {number}")
        names[number] = text_at(image, "file_name", where)
    return names
