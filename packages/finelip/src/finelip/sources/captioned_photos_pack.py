"""Photographs of COCO with long captions written for this project, as a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from finelip.sources.captioned_files import CaptionedFiles, Record, unique
from finelip.sources.json_files import json_lines, text_at
from shared.data.split_names import SPLIT_NAMES
from shared.errors import UsageError


class CaptionedPhotosPack(CaptionedFiles):
    """``root/captions.jsonl`` and the pictures that it names.

    A line is ``{"image", "split", "long_caption", "captions": [short ones], …}``.

    Args:
        root: The folder.
        captions: The ``long`` one, with the first short one beside it; every ``short`` one as a pair of its own; or the
            short ones ``joined`` by spaces.
        name: What the set is called.
    """

    def __init__(
        self,
        root: str | Path,
        captions: Literal["long", "short", "joined"] = "long",
        name: str = "captioned-photos-pack",
    ) -> None:
        if captions not in ("long", "short", "joined"):
            raise UsageError(f"data.source.captions must be long, short or joined, got {captions!r}")
        super().__init__(root, name, "real")
        self.captions = captions

    def records(self, split: str) -> Sequence[Record]:
        path = self.root / "captions.jsonl"
        found: list[Record] = []
        pictures: list[Record] = []
        for where, line in json_lines(path):
            named = text_at(line, "split", where)
            if named not in SPLIT_NAMES:
                raise UsageError(
                    f"data.source.root: 'split' must be one of {', '.join(SPLIT_NAMES)}, {where} has {named!r}"
                )
            picture, long = text_at(line, "image", where), text_at(line, "long_caption", where)
            short = line.get("captions")
            if not isinstance(short, list) or not short:
                raise UsageError(f"data.source.root: every record must have a list 'captions', {where} has none")
            texts = [text_at({"caption": text}, "caption", where) for text in short]
            pictures.append(Record(picture, long))
            if SPLIT_NAMES[named] == split:
                found += {
                    "long": [Record(picture, long, texts[0])],
                    "short": [Record(picture, text) for text in texts],
                    "joined": [Record(picture, " ".join(texts), texts[0])],
                }[self.captions]
        unique(pictures, path)
        return found
