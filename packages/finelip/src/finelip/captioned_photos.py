"""The shipped photographs: 19 pictures, each with a long caption written for this project, and four crops of each."""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from PIL import Image

from finelip.sources.pairs import Pair, PairSource, checked_split
from finelip.sources.pictures import opened
from shared.errors import UsageError

FOLDER = "samples/captioned_photos"
"""Below the package: ``captions.json`` and the photographs that it names."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the last two are not part of it."""


class Region(NamedTuple):
    """A part of a photograph and one sentence about it."""

    box: Box
    caption: str


class Photograph(NamedTuple):
    """A shipped photograph.

    Attributes:
        file: Its name.
        source: The file of the Python package that it was made from.
        split: ``train`` or ``test``.
        short: One sentence of 8 to 15 words.
        long: 90 to 160 words, from general to particular: more than 77 tokens, at most 248.
        regions: Four parts.
    """

    file: str
    source: str
    split: str
    short: str
    long: str
    regions: tuple[Region, ...]


class CaptionedPhotos(PairSource):
    """The photographs and their crops as pairs; split by photograph, so that no crop of a test picture is trained on.

    Far too few to learn from: they are for the default commands, for prediction, tables and looking at results.

    Args:
        crops: Also give the four crops of every photograph, each a picture of its own: 70 and 25 pairs in place of 14
            and 5.
    """

    name = "captioned-photos"
    provenance: Literal["real"] = "real"

    def __init__(self, crops: bool = True) -> None:
        self.crops = crops

    def pairs(self, split: str) -> Sequence[Pair]:
        """All photographs of ``train`` or ``test``, then their crops; there is no ``validation``.

        Raises:
            UsageError: There is no such split, or the package is incomplete.
        """
        return [
            Pair(photo.file, photo.long, photo.short, number)
            if region is None
            else Pair(f"{photo.file}[{','.join(map(str, region.box))}]", region.caption, None, number)
            for number, (photo, region) in enumerate(self._items(split))
        ]

    def picture(self, split: str, index: int) -> Image.Image:
        """A photograph or a crop, RGB.

        Raises:
            OSError: The file is missing or damaged.
        """
        photo, region = self._items(split)[index]
        picture = opened(files("finelip").joinpath(*FOLDER.split("/"), photo.file).read_bytes(), photo.file)
        return picture if region is None else picture.crop(region.box)

    def _items(self, split: str) -> list[tuple[Photograph, Region | None]]:
        chosen = [photo for photo in photographs() if photo.split == checked_split(split)]
        whole: list[tuple[Photograph, Region | None]] = [(photo, None) for photo in chosen]
        return whole + [(photo, region) for photo in chosen if self.crops for region in photo.regions]


@cache
def photographs() -> tuple[Photograph, ...]:
    """The shipped photographs in the order of their file.

    Raises:
        UsageError: The package is incomplete.
    """
    try:
        text = files("finelip").joinpath(*FOLDER.split("/"), "captions.json").read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"package finelip must hold {FOLDER}/captions.json, but it is missing: install the package again"
        ) from error
    return tuple(_photograph(**entry) for entry in json.loads(text))


def _photograph(regions: list[dict[str, Any]], **facts: str) -> Photograph:
    found = []
    for region in regions:
        left, top, right, bottom = region["box"]
        found.append(Region((left, top, right, bottom), region["caption"]))
    return Photograph(**facts, regions=tuple(found))
