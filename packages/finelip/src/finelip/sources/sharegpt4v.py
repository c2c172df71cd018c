"""ShareGPT4V: 1.2 million long captions in one JSON list (Chen et al., ECCV 2024); FineLIP's training set."""

import json
from array import array
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from finelip.sources.captioned_files import check_first_pictures, recorded_name, recorded_provenance
from finelip.sources.json_files import json_list, text_at
from finelip.sources.pairs import Pair, PairSource, checked_split
from finelip.sources.pictures import opened
from shared.data.labelled_images import Provenance
from shared.data.sources import existing
from shared.errors import UsageError

FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
"""The list that FineLIP and Long-CLIP train on: 1,246,901 records."""
SA1B_PER_FOLDER = 11_187
"""Pictures in one archive of SA-1B, about."""


class ShareGPT4V(PairSource):
    """``root/FILE`` and, below the root, the pictures that it names (``coco/…``, ``llava/…``, ``sam/images/…``).

    A record is ``{"id", "image", "conversations": [{…}, {"from": "gpt", "value": caption}]}``. The caption is the
    second turn with its line breaks as spaces; the short one is its text before the first ``". "``. The first
    ``validation_records`` records are for validation ("ShareGPT4V-1k"; 10,000 for "SV-10k"), the rest for training.

    Of each record only its place in the file is kept, 24 bytes; the text is read when it is used.

    SA-1B lies in three ways on people's disks, all of which are tried: ``sam/images/sa_1.jpg``, ``sam/sa_1.jpg`` and
    ``sam/sa_000000/[images/]sa_1.jpg``.

    Args:
        root: The folder.
        file: The list, below the root or an absolute path.
        validation_records: So many from the front are for validation.
        test: Another list of the same form, all of which is for testing.
        name: What the set is called; without it ``sharegpt4v``, or the preset that wrote the folder.
        provenance: As in :class:`~finelip.sources.captioned_files.CaptionedFiles`.
    """

    def __init__(
        self,
        root: str | Path,
        file: str = FILE,
        validation_records: int = 1000,
        test: str | None = None,
        name: str | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        if validation_records < 0:
            raise UsageError(f"data.source.validation_records must be at least 0, got {validation_records}")
        self.root = Path(root).expanduser()
        self.list, self.test_list = self.root / file, None if test is None else self.root / test
        self.validation_records = validation_records
        self.name = name or recorded_name(self.root, "sharegpt4v")
        self.provenance: Provenance = provenance or recorded_provenance(self.root)
        self._known: dict[str, Sequence[Pair]] = {}
        self._whole: _Index | None = None
        self._sa1b: list[Path] | None = None

    def pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of a split, read from the file one by one as they are asked for.

        Raises:
            UsageError: The list is missing or not as published, or none of the first pictures is there.
        """
        if checked_split(split) not in self._known:
            self._known[split] = self._read(split)
        return self._known[split]

    def picture(self, split: str, index: int) -> Image.Image:
        """The picture of a pair, RGB.

        Raises:
            OSError: It is missing or cannot be read.
        """
        return opened(self.file(self.pairs(split)[index].name))

    def file(self, name: str) -> Path:
        """Where a picture lies, or would lie."""
        path = self.root / name
        if path.parent.name != "images" or path.parents[1].name != "sam" or path.is_file():
            return path
        sam = path.parents[1]
        if self._sa1b is None:
            self._sa1b = sorted(folder for folder in sam.glob("sa_*") if folder.is_dir())
        # The archive that a number lies in is known but for a few, so the right folder is among the first tried.
        likely = int(digits) / SA1B_PER_FOLDER if (digits := path.stem.removeprefix("sa_")).isdecimal() else 0
        for folder in [sam, *sorted(self._sa1b, key=lambda folder: abs(_number(folder) - likely))]:
            for candidate in (folder / path.name, folder / "images" / path.name):
                if candidate.is_file():
                    return candidate
        return path

    def _read(self, split: str) -> Sequence[Pair]:
        existing(self.root, "data.source.root", "folder")
        if split == "test":
            return [] if self.test_list is None else self._found(self.test_list, _indexed(self.test_list))
        if self._whole is None:
            self._whole = _indexed(self.list)
        cut = min(self.validation_records, len(self._whole.starts))
        return self._found(self.list, self._whole.part(slice(cut) if split == "validation" else slice(cut, None)))

    def _found(self, path: Path, index: "_Index") -> Sequence[Pair]:
        records = _Records(path, index)
        check_first_pictures(map(self.file, dict.fromkeys(pair.name for pair in records[:20])))
        return records


class _Index:
    """Where the records lie and which picture each has: three ``(N,)`` int64 arrays."""

    def __init__(self, starts: np.ndarray, stops: np.ndarray, image_ids: np.ndarray) -> None:
        self.starts, self.stops, self.image_ids = starts, stops, image_ids

    def rows(self, rows: slice) -> "_Index":
        """Some of them."""
        return _Index(self.starts[rows], self.stops[rows], self.image_ids[rows])

    def part(self, rows: slice) -> "_Index":
        """Some of them, whose pictures are counted from 0 again."""
        _, first, inverse = np.unique(self.image_ids[rows], return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # in the order of their first caption
        return _Index(self.starts[rows], self.stops[rows], order[inverse])


class _Records(Sequence[Pair]):
    """Pairs that are read when they are asked for; what is sent to a worker is the index alone."""

    def __init__(self, path: Path, index: _Index) -> None:
        self._path, self._index = path, index
        self._content: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_content": None}  # a pickled memory map would carry all of its bytes

    def __len__(self) -> int:
        return len(self._index.starts)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> "_Records": ...
    def __getitem__(self, index: int | slice) -> "Pair | _Records":
        if isinstance(index, slice):
            return _Records(self._path, self._index.rows(index))
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        if self._content is None:
            self._content = np.memmap(self._path, np.uint8, "r")
        text = self._content[self._index.starts[index] : self._index.stops[index]].tobytes()
        picture, caption = _fields(json.loads(text), f"a record of {self._path}")
        return Pair(picture, caption, caption.split(". ")[0], int(self._index.image_ids[index]))


def _fields(record: dict[str, Any], where: str) -> tuple[str, str]:
    picture = text_at(record, "image", where)
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[1], dict):
        raise UsageError(f"data.source.file: every record must have two turns in 'conversations', {where} has not")
    caption = text_at(turns[1], "value", f"the second turn of {where}", "data.source.file")
    return picture, caption.replace("\n", " ")


def _indexed(path: Path) -> _Index:
    starts, stops, pictures, ids = array("q"), array("q"), array("Q"), array("Q")
    for number, element in enumerate(json_list(path, "data.source.file")):
        where = f"record {number} of {path}"
        picture, _ = _fields(element.value, where)
        starts.append(element.start)
        stops.append(element.stop)
        pictures.append(_hash(picture))
        ids.append(_hash(str(element.value.get("id", picture))))
    if not starts:
        raise UsageError(f"data.source.file must hold at least one record, {path} holds none")
    _check_ids(np.array(ids), np.array(pictures), path)
    _, image_ids = np.unique(np.array(pictures), return_inverse=True)
    return _Index(np.array(starts), np.array(stops), image_ids).part(slice(None))


def _check_ids(ids: np.ndarray, pictures: np.ndarray, path: Path) -> None:
    """Captions of one picture may share their id; pictures may not."""
    order = np.argsort(ids, kind="stable")
    again = (ids[order][1:] == ids[order][:-1]) & (pictures[order][1:] != pictures[order][:-1])
    if again.any():
        row = int(np.flatnonzero(again)[0])
        one, other = sorted(order[row : row + 2].tolist())
        raise UsageError(
            f"data.source.file: an 'id' must belong to one picture, records {one} and {other} of {path} "
            "share theirs and have two"
        )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _number(folder: Path) -> float:
    digits = folder.name.removeprefix("sa_")
    return int(digits) if digits.isdecimal() else float("inf")
