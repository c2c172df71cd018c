"""Encode pictures and texts once and for all: shard files that any later question is answered from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from open_clip import image_transform
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from finelip.finelip import FineLIP, ImageSet, TextSet
from finelip.ragged import joined
from finelip.shards import (
    SIDES,
    Precision,
    Side,
    is_whole_shard,
    open_shard,
    packed_thumbnails,
    quantised,
    shard_path,
    write_shard,
)
from finelip.sources.pairs import PairSource
from finelip.sources.pictures import SUFFIXES, opened
from finelip.tokenizer import LongTokenizer, cut_to_longest
from finelip.trained import fingerprint
from shared.atomic import write_text
from shared.errors import RunError, UsageError
from shared.outputs import output_folder

FORMAT = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Collection:
    """Pictures, texts, or both, before they are encoded.

    Attributes:
        name: Of the set.
        provenance: ``real``, ``derived`` or ``synthetic``; ``unknown`` for files that say nothing of themselves.
        images: Names of the pictures.
        picture: From the position of a name to the picture.
        texts: Names of the texts.
        captions: The texts.
        owner: For each text the position of its picture, where both are there.
    """

    name: str
    provenance: str
    images: Sequence[str] = ()
    picture: Callable[[int], Image.Image] | None = None
    texts: Sequence[str] = ()
    captions: Sequence[str] = ()
    owner: Sequence[int] = field(default=())

    def __post_init__(self) -> None:
        for what, names in (("picture", self.images), ("text", self.texts)):
            if duplicate := first_duplicate(names):
                raise UsageError(f"every {what} must have a name of its own, got {duplicate!r} twice")
        for name, caption in zip(self.texts, self.captions, strict=True):
            if not caption.strip():
                raise UsageError(f"every text must have a word, got none in {name!r} of {self.name}")
        if not self.images and not self.texts:
            raise UsageError(f"there must be something to encode, got nothing in {self.name}")


def first_duplicate(names: Sequence[str]) -> str | None:
    """The first name that has occurred before.

    Example:
        >>> first_duplicate(["a", "b", "a"]), first_duplicate(["a", "b"])
        ('a', None)
    """
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def from_source(source: PairSource, split: str) -> Collection:
    """All pictures of a split and all their captions.

    A picture's only caption has its name, several are numbered: ``NAME#0``, ``NAME#1`` ...

    Raises:
        UsageError: The split is empty, or two pictures have one name.
    """
    pairs = source.pairs(split)
    if not pairs:
        raise UsageError(f"--split must be train, validation or test, and not empty in {source.name}, got {split!r}")
    first: dict[int, int] = {}
    counts: dict[int, int] = {}
    for index, pair in enumerate(pairs):
        first.setdefault(pair.image_id, index)
        counts[pair.image_id] = counts.get(pair.image_id, 0) + 1
    place = {image: position for position, image in enumerate(first)}
    rows = list(first.values())
    names, given = [], dict.fromkeys(first, 0)
    for pair in pairs:
        number = given[pair.image_id]
        given[pair.image_id] += 1
        names.append(pair.name if counts[pair.image_id] == 1 else f"{pair.name}#{number}")
    return Collection(
        source.name,
        source.provenance,
        [pairs[row].name for row in rows],
        lambda position: source.picture(split, rows[position]),
        names,
        [pair.caption for pair in pairs],
        [place[pair.image_id] for pair in pairs],
    )


def from_pictures(root: Path) -> Collection:
    """A picture, or all below a folder, named by their path in it.

    Raises:
        UsageError: There are none.
    """
    if root.is_file():
        files = [root]
        names = [root.name]
    elif root.is_dir():
        files = sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES)
        names = [file.relative_to(root).as_posix() for file in files]
    else:
        raise UsageError(f"--pictures must be a picture or a folder of them, got {root}")
    if not files:
        raise UsageError(f"--pictures must hold pictures ({', '.join(sorted(SUFFIXES))}), got {root}")
    return Collection(root.name, "unknown", names, lambda position: opened(files[position]))


def from_texts(file: Path) -> Collection:
    """The lines of a text file, named by their numbers from 1; empty lines are left out.

    Raises:
        UsageError: There is no such file or no text in it.
    """
    if not file.is_file():
        raise UsageError(f"--texts must be an existing file with a text a line, got {file}")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--texts must be a text file in UTF-8, got {file}") from error
    found = [(str(number), line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"--texts must hold at least one text, got none in {file}")
    return Collection(file.name, "unknown", texts=[n for n, _ in found], captions=[text for _, text in found])


# ---------------------------------------------------------------------- vectors and sets


class Encoder:
    """A model that encodes pictures and texts in batches.

    Args:
        model: In evaluation mode.
        batch_size: Items at a time.
        device: Where to compute.

    Attributes:
        truncated: Texts so far that were longer than the model's slots.
    """

    def __init__(self, model: FineLIP, batch_size: int = 64, device: torch.device | str = "cpu") -> None:
        if batch_size < 1:
            raise UsageError(f"--batch_size must be at least 1, got {batch_size}")
        self.model = model.to(device)
        self.batch_size = batch_size
        self.device = device
        self.tokenizer = LongTokenizer(model.context_length)
        self.transform = image_transform(model.image_size, is_train=False)
        self.truncated = 0

    @torch.no_grad()
    def images(self, pictures: Sequence[Image.Image]) -> ImageSet:
        """Vectors and sets of pictures, on the CPU."""
        parts = []
        for start in range(0, len(pictures), self.batch_size):
            batch = torch.stack([self.transform(picture) for picture in pictures[start : start + self.batch_size]])
            parts.append(self.model.encode_image(batch.to(self.device)))
        return ImageSet(*(torch.cat([part[which].float().cpu() for part in parts]) for which in (0, 1)))

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> TextSet:
        """Vectors, sets and masks of texts, on the CPU; texts of alike lengths go together.

        Raises:
            UsageError: A text is empty.
        """
        for caption in captions:
            if not caption.strip():
                raise UsageError("a text must not be empty, got one without a word")
        ids, lengths, truncated = self.tokenizer(captions)
        self.truncated += int(truncated.sum())
        order = lengths.argsort(stable=True)
        parts = []
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = cut_to_longest(ids[rows], lengths[rows])
            parts.append(self.model.encode_text(batch.to(self.device), lengths[rows].to(self.device)))
        vectors = torch.cat([part.vector.float().cpu() for part in parts])
        tokens, mask = joined([part.tokens.float().cpu() for part in parts], [part.mask.cpu() for part in parts])
        back = order.argsort()
        return TextSet(vectors[back], tokens[back], mask[back])


def cut_sentence(truncated: int, context_length: int) -> str:
    """What is said where texts were too long.

    Example:
        >>> cut_sentence(1, 248), cut_sentence(3, 77)
        ('1 text has more than 248 tokens and loses its end', '3 texts have more than 77 tokens and lose their ends')
    """
    if truncated == 1:
        return f"1 text has more than {context_length} tokens and loses its end"
    return f"{truncated} texts have more than {context_length} tokens and lose their ends"


# ---------------------------------------------------------------------- shards


@dataclass(frozen=True)
class ShardOptions:
    """How items are stored.

    Attributes:
        precision: Of vectors and sets.
        shard_size: Items of a shard.
        thumbnails: Most pixels of width and height of the pictures' thumbnails; 0: none.
        max_unreadable: Share of the pictures that may be unreadable.
    """

    precision: Precision = "fp16"
    shard_size: int = 1024
    thumbnails: int = 160
    max_unreadable: float = 0.01

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise UsageError(f"--shard_size must be at least 1, got {self.shard_size}")
        if self.thumbnails < 0:
            raise UsageError(f"--thumbnails must not be negative, got {self.thumbnails}")
        if not 0 <= self.max_unreadable <= 1:
            raise UsageError(f"--max_unreadable must lie in [0, 1], got {self.max_unreadable}")


def manifest_of(
    collection: Collection, split: str, model: FineLIP, options: ShardOptions, batch_size: int
) -> dict[str, Any]:
    """What decides about every byte of the shards, and the names of all items."""
    names = json.dumps([list(collection.images), list(collection.texts), list(collection.captions)])
    return {
        "format": FORMAT,
        "model": fingerprint(model),
        "refinement": model.refinement,
        "context_length": model.context_length,
        "image_size": model.image_size,
        "dim": model.dim,
        "precision": options.precision,
        "shard_size": options.shard_size,
        "thumbnails": options.thumbnails,
        "batch_size": batch_size,
        "source": {"name": collection.name, "provenance": collection.provenance, "split": split},
        "items_sha256": sha256(names.encode()).hexdigest(),
        "images": list(collection.images),
        "texts": list(collection.texts),
        "captions": list(collection.captions),
        "owner": list(collection.owner),
    }


@dataclass
class Encoded:
    """What an encoding came to.

    Attributes:
        counts: Items of each side.
        unreadable: Names of pictures that could not be read, and why.
        kept: Shards that were there already.
        made: Shards that were made now.
        truncated: Texts that were cut.
    """

    counts: dict[str, int]
    unreadable: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    made: int = 0
    truncated: int = 0


def claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder of an encoding and write its manifest, or find that it is this very encoding's.

    Raises:
        UsageError: The folder holds something else; says what differs.
    """
    file = folder / MANIFEST
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        differs = [name for name in manifest if found.get(name) != manifest[name]]
        if differs:
            told = {name: found.get(name) for name in differs if not isinstance(manifest[name], list)}
            raise UsageError(
                f"--out must be a new folder or one of the same encoding, got {folder}, which differs in "
                f"{', '.join(told or differs)}"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out must be a new or empty folder, got {folder}")
    output_folder(folder)
    write_text(file, json.dumps(manifest, ensure_ascii=False) + "\n")


def encode_collection(
    collection: Collection, split: str, encoder: Encoder, folder: Path, options: ShardOptions, progress: bool = True
) -> Encoded:
    """Write the shards of a collection that are not there yet.

    A shard is made from its own items alone and appears under its name when it is whole, so an encoding that was killed
    and is run again comes to the same files. Unreadable pictures are left out, named and counted.

    Raises:
        UsageError: The folder holds another encoding.
        RunError: Too many pictures cannot be read.
    """
    claim(folder, manifest_of(collection, split, encoder.model, options, encoder.batch_size))
    result = Encoded({"images": len(collection.images), "texts": len(collection.texts)})
    work = [(side, number) for side in SIDES for number in range(-(-result.counts[side] // options.shard_size))]
    for side, number in tqdm(work, desc="shards", unit="shard", disable=None if progress else True):
        path = shard_path(folder, side, number)
        rows = range(number * options.shard_size, min((number + 1) * options.shard_size, result.counts[side]))
        if is_whole_shard(path):
            result.kept += 1
            missing = {}
            if side == "images":
                there = set(open_shard(path)["rows"].tolist())
                missing = {collection.images[row]: "unreadable before" for row in rows if row not in there}
        else:
            tensors, missing = shard_of(side, rows, collection, encoder, options)
            write_shard(path, tensors)
            result.made += 1
        if side == "texts":
            result.truncated += int(open_shard(path)["truncated"][0])
        result.unreadable |= missing
        if len(result.unreadable) > options.max_unreadable * result.counts["images"]:
            name, why = next(iter(result.unreadable.items()))
            raise RunError(
                f"{len(result.unreadable)} of {result.counts['images']} pictures cannot be read, more than "
                f"--max_unreadable {options.max_unreadable:g} allows; the first is {name} ({why})"
            )
    return result


def shard_of(
    side: Side, rows: range, collection: Collection, encoder: Encoder, options: ShardOptions
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of one shard, and the pictures that could not be read."""
    unreadable: dict[str, str] = {}
    kept, tensors = list(rows), {}
    if side == "texts":
        before = encoder.truncated
        vectors, tokens, mask = encoder.texts([collection.captions[row] for row in rows])
        tensors["truncated"] = torch.tensor([encoder.truncated - before])
        if not bool(mask.all()):
            tensors["mask"] = mask
    else:
        assert collection.picture is not None
        pictures, kept = [], []
        for row in rows:
            try:
                pictures.append(collection.picture(row).convert("RGB"))
                kept.append(row)
            except OSError as error:
                unreadable[collection.images[row]] = str(error)
        if pictures:
            vectors, tokens = encoder.images(pictures)
        else:
            vectors, tokens = torch.zeros(0, encoder.model.dim), torch.zeros(0, 1, encoder.model.dim)
        tensors |= packed_thumbnails(pictures, options.thumbnails)
    for name, values in (("vectors", vectors), ("tokens", tokens)):
        tensors |= {name + suffix: stored for suffix, stored in quantised(values, options.precision).items()}
    return tensors | {"rows": torch.tensor(kept, dtype=torch.int64)}, unreadable
