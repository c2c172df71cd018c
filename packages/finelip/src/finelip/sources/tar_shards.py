"""Shards of webdataset: tar files of pictures and captions, read without that library and in any order."""

import itertools
import json
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from finelip.sources.pairs import Pair, PairSource, checked_split
from finelip.sources.pictures import opened
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError

PICTURES = ("jpg", "png", "jpeg", "webp")
"""Extensions of pictures; of several in one sample the first of these counts."""
_BLOCK = 512


class TarShards(PairSource):
    """Samples of ``KEY.jpg`` (or png, jpeg, webp) and ``KEY.txt`` or ``KEY.json`` in uncompressed tar files.

    A member's key is its path up to the first dot of its name, the rest is its extension, as webdataset has it. The
    caption is the text, or where there is none the value of ``json_key``. Samples without a picture, without a caption
    or with an empty one are left out and counted in ``left_out``.

    The headers of the shards are read once; of each sample its place in its shard is kept, and picture and caption are
    read when they are used, so order and worker do not matter.

    Args:
        shards: Of the training pairs: a path with ``{000..003}`` or ``{a,b}``, several joined by ``::``.
        validation: Further shards.
        test: Further shards.
        json_key: Of the caption in ``KEY.json``.
        name: What the set is called; without it the folder's name.
        provenance: Whether the pictures are real, derived or synthetic.
    """

    def __init__(
        self,
        shards: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        json_key: str = "caption",
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        self.shards = {"train": shards, "validation": validation, "test": test}
        given = [value for value in self.shards.values() if value]
        if not given:
            raise UsageError("data.source.shards must name at least one shard, got none")
        self.json_key = json_key
        self.name = name or Path(given[0].split("::")[0]).absolute().parent.name
        self.provenance: Provenance = provenance
        self.left_out: dict[str, int] = {}
        self._known: dict[str, _Samples] = {}

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split in the order of the shards; empty where it has none.

        Raises:
            UsageError: A shard is missing, damaged or compressed, a key occurs twice in it, or no sample is complete.
        """
        return self._samples(split)

    def picture(self, split: str, index: int) -> Image.Image:
        """The picture of a pair, RGB.

        Raises:
            OSError: It cannot be read.
        """
        samples = self._samples(split)
        return opened(samples.content(index, "picture"), samples.name(index))

    def _samples(self, split: str) -> "_Samples":
        if checked_split(split) not in self._known:
            option = "data.source.shards" if split == "train" else f"data.source.{split}"
            paths = [existing(path, option, "file") for path in expanded(self.shards[split] or "")]
            samples = _Samples(paths, self.json_key)
            left_out = sum(samples.add(number, option) for number in range(len(paths)))
            if paths and not len(samples):
                raise UsageError(
                    f"{option} must hold at least one picture with a caption, {paths[0]} and the rest hold none"
                )
            self.left_out[split], self._known[split] = left_out, samples.closed()
        return self._known[split]


def expanded(pattern: str) -> list[str]:
    """The paths that a pattern of braces means; nested braces are not known.

    Raises:
        UsageError: A range does not count up.

    Example:
        >>> expanded("a{08..10}.tar::b{x,y}.tar")
        ['a08.tar', 'a09.tar', 'a10.tar', 'bx.tar', 'by.tar']
    """
    return list(
        itertools.chain.from_iterable(
            map("".join, itertools.product(*map(_choices, re.split(r"(\{[^{}]*\})", part))))
            for part in pattern.split("::")
            if part
        )
    )


def _choices(piece: str) -> list[str]:
    if not piece.startswith("{"):
        return [piece]
    if not (ends := re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece)):
        return piece[1:-1].split(",") if "," in piece else [piece]
    first, last = ends[1], ends[2]
    if int(first) > int(last):
        raise UsageError(f"data.source.shards: a range must count up, got {piece}")
    padded = any(end.startswith("0") and len(end) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


class _Samples(Sequence[Pair]):
    """Where the samples of some shards lie, and their keys; what is sent to a worker is that alone."""

    def __init__(self, paths: list[Path], json_key: str) -> None:
        self._paths, self._json_key = paths, json_key
        self._places: Any = array("q")  # shard, picture's start and size, caption's start and size, whether it is JSON
        self._keys: Any = []
        self._rows = np.arange(0)
        self._open: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a pickled memory map would carry all of its bytes

    def closed(self) -> "_Samples":
        """The same, in arrays that worker processes share."""
        self._places = np.array(self._places).reshape(-1, 6)
        self._keys = np.array([key.encode() for key in self._keys], dtype=np.bytes_)
        self._rows = np.arange(len(self._keys))
        return self

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "_Samples": ...
    def __getitem__(self, index: int | slice) -> "Pair | _Samples":
        if isinstance(index, slice):
            some = _Samples(self._paths, self._json_key)
            some._places, some._keys, some._rows = self._places[index], self._keys[index], self._rows[index]
            return some
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return Pair(self.name(index), self._caption(index), None, int(self._rows[index]))

    def name(self, index: int) -> str:
        """The shard's name and the key."""
        return f"{self._paths[self._places[index][0]].name}/{self._keys[index].decode()}"

    def content(self, index: int, part: Literal["picture", "caption"]) -> bytes:
        """What a member holds."""
        place = self._places[index]
        start, size = (place[1], place[2]) if part == "picture" else (place[3], place[4])
        shard = int(place[0])
        if shard not in self._open:
            self._open[shard] = np.memmap(self._paths[shard], np.uint8, "r")
        return self._open[shard][start : start + size].tobytes()

    def _caption(self, index: int) -> str:
        return caption_of(
            self.content(index, "caption"), bool(self._places[index][5]), self._json_key, self.name(index)
        )

    def add(self, shard: int, option: str) -> int:
        """Read the headers of a shard.

        Returns:
            How many samples are incomplete.
        """
        path, left_out = self._paths[shard], 0
        with path.open("rb") as stream:
            for key, members in samples_of(path, option):
                picture = next((members[kind] for kind in PICTURES if kind in members), None)
                kind = "txt" if "txt" in members else "json"
                if picture is None or kind not in members:
                    left_out += 1
                    continue
                start, size = members[kind]
                stream.seek(start)
                if not caption_of(stream.read(size), kind == "json", self._json_key, f"{path}/{key}"):
                    left_out += 1
                    continue
                self._places.extend((shard, *picture, start, size, kind == "json"))
                self._keys.append(key)
        return left_out


def samples_of(path: Path, option: str) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The samples of a shard: key, and start and size of the member of each extension (in lower case).

    Raises:
        UsageError: It is damaged, cut short or compressed, or holds a file twice.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                blocks = -(-member.size // _BLOCK) if member.isreg() else 0
                end = member.offset_data + blocks * _BLOCK
                folder, slash, name = member.name.rpartition("/")
                stem, dot, kind = name.partition(".")
                if not member.isreg() or not dot or not stem:
                    continue
                files = found.setdefault(f"{folder}{slash}{stem}", {})
                if kind.lower() in files:
                    raise UsageError(f"{option}: every file must be in a shard once, {path} has {member.name} twice")
                files[kind.lower()] = (member.offset_data, member.size)
        with path.open("rb") as stream:
            stream.seek(end)
            # tarfile takes a broken header for the end; a whole archive ends with a block of zeros.
            if stream.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError(f"it breaks off at byte {end:,}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{option}: every shard must be a whole, uncompressed tar file, {path} is not ({error})"
        ) from error
    yield from found.items()


def caption_of(content: bytes, is_json: bool, json_key: str, where: str) -> str:
    """The caption of a text or JSON file, perhaps empty; JSON without the key, or with ``null`` there, has none.

    Raises:
        UsageError: It is no UTF-8 or no JSON object, or the value is no text.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text) if is_json else {json_key: text}
    except ValueError as error:
        raise UsageError(
            f"data.source.shards: captions must be {'JSON' if is_json else 'text'} in UTF-8, that of {where} is not "
            f"({error})"
        ) from error
    caption = (value.get(json_key) or "") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(caption, str):
        raise UsageError(f"data.source.json_key must name a text, {json_key!r} of {where} is {str(caption)[:40]!r}")
    return caption.strip()
