"""A searchable index over shard files: exact scores from memory maps, whatever the number of items."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finelip.encoding import MANIFEST, first_duplicate
from finelip.finelip import FineLIP
from finelip.shards import SIDES, Side, is_whole_shard, open_shard, restored, shard_path
from finelip.trained import fingerprint
from shared.atomic import write_text
from shared.errors import RunError, UsageError
from shared.outputs import output_folder

FORMAT = 1
INDEX = "index.json"
CHUNK = 1024
"""Vectors that are widened to float32 at once: what a core's cache holds."""

SAME = ("model", "precision", "dim", "refinement", "context_length", "image_size")
"""What encodings in one index must have in common."""


# ---------------------------------------------------------------------- search


def exact_scores(vectors: NDArray, queries: Tensor, scale: NDArray | None = None) -> Tensor:
    """``(Q, N)`` scalar products of ``(Q, D)`` queries with stored ``(N, D)`` vectors, in float32.

    Stored ones are widened a chunk at a time into one place, so memory is that of the scores alone.
    """
    queries = queries.float()
    scores = torch.empty(len(queries), len(vectors))
    place = torch.empty(min(CHUNK, max(1, len(vectors))), vectors.shape[1])
    for start in range(0, len(vectors), CHUNK):
        stored = torch.from_numpy(vectors[start : start + CHUNK])
        wide = place[: len(stored)].copy_(stored)
        found = queries @ wide.T
        if scale is not None:
            found *= torch.from_numpy(scale[start : start + CHUNK])
        scores[:, start : start + len(stored)] = found
    return scores


def exact_top(scores: Tensor, top: int) -> Tensor:
    """``(top,)`` indices of the highest of ``(N,)`` scores, the best first; equal ones in the order of their indices.

    Example:
        >>> exact_top(torch.tensor([0.5, 0.9, 0.5, 0.1]), 2).tolist()
        [1, 0]
    """
    top = min(top, len(scores))
    least = scores.topk(top).values[-1] if top else scores.new_tensor(torch.inf)
    candidates = (scores >= least).nonzero()[:, 0]  # ascending
    return candidates[scores[candidates].argsort(descending=True, stable=True)][:top]


# ---------------------------------------------------------------------- build


def read_manifest(folder: Path) -> dict[str, Any]:
    """What ``finelip encode`` wrote about a folder.

    Raises:
        UsageError: It is none of its folders.
    """
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--shards must be a folder that finelip encode wrote, got {folder}") from error


def shards_of(folder: Path, manifest: dict[str, Any], side: Side) -> list[Path]:
    """The shards of one side.

    Raises:
        UsageError: Some are missing.
    """
    paths = [shard_path(folder, side, n) for n in range(-(-len(manifest[side]) // manifest["shard_size"]))]
    missing = sum(not is_whole_shard(path) for path in paths)
    if missing:
        raise UsageError(
            f"--shards must be a finished encoding, got {folder}, where {missing} of {len(paths)} shards of {side} are "
            "missing: run finelip encode again"
        )
    return paths


def build_index(folders: Sequence[Path], out: Path, faiss: bool = False) -> dict[str, Any]:
    """Write an index over encodings; it appears whole or not at all, in the place of an earlier one.

    The vectors of all shards are copied into one file each side; the sets stay in the shards, which must stay where
    they are.

    Args:
        folders: Of ``finelip encode``.
        out: Folder to write.
        faiss: Write a FAISS index of the vectors too, for the first stage.

    Returns:
        What ``index.json`` holds.

    Raises:
        UsageError: An encoding is not finished or of another model, two items have one name, or ``out`` is not free.
    """
    if faiss and find_spec("faiss") is None:
        raise UsageError("--faiss true needs the package faiss-cpu, which is not installed")
    if not folders:
        raise UsageError("--shards must name at least one folder of finelip encode, got none")
    manifests = [read_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders, manifests, strict=True):
        for name in SAME:
            if manifest[name] != manifests[0][name]:
                what = "was made by another model" if name == "model" else f"has {name} {manifest[name]}"
                raise UsageError(f"--shards must all be of one model and kind, but {folder} {what} than {folders[0]}")
    if out.exists() and not (out / INDEX).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out must be a new folder or an index to replace, got {out}")
    output_folder(out.parent)
    told: dict[str, Any] = {"format": FORMAT} | {name: manifests[0][name] for name in SAME}
    told["sources"] = [manifest["source"] for manifest in manifests]
    temporary = out.with_name(out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    places: list[NDArray] = []  # from the position in an encoding's images to the row in the index
    for side in SIDES:
        paths = [shards_of(folder, manifest, side) for folder, manifest in zip(folders, manifests, strict=True)]
        names: list[str] = []
        captions: list[str] = []
        owners: list[int] = []
        shards: list[dict[str, Any]] = []
        parts: dict[str, list[NDArray]] = {"": [], "_scale": []}
        for at, manifest in enumerate(manifests):
            place = np.full(len(manifest["images"]), -1)
            for path in paths[at]:
                arrays = open_shard(path)
                rows = arrays["rows"].tolist()
                if side == "images":
                    place[rows] = np.arange(len(names), len(names) + len(rows))
                else:
                    captions += [manifest["captions"][row] for row in rows]
                    owners += [int(places[at][manifest["owner"][row]]) if manifest["owner"] else -1 for row in rows]
                names += [manifest[side][row] for row in rows]
                shards.append({"path": os.path.relpath(path.resolve(), out.resolve()), "items": len(rows)})
                for suffix, found in parts.items():
                    if f"vectors{suffix}" in arrays:
                        found.append(arrays[f"vectors{suffix}"])
            if side == "images":
                places.append(place)
        if duplicate := first_duplicate(names):
            raise UsageError(f"--shards must hold each name once, got {duplicate!r} twice among the {side}")
        told[side] = names
        told[f"{side}_shards"] = shards
        if side == "texts":
            told["captions"], told["owner"] = captions, owners
        if names:
            for suffix, found in parts.items():
                if found:
                    write_array(temporary / f"{side}{suffix}.npy", found)
            if faiss:
                write_faiss(temporary / f"{side}.faiss", parts)
    write_text(temporary / INDEX, json.dumps(told, ensure_ascii=False) + "\n")
    swap(temporary, out)
    return told


def write_array(path: Path, parts: Sequence[NDArray]) -> None:
    """Write the parts one below the other as one ``.npy`` file, a part at a time."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    array = np.lib.format.open_memmap(path, "w+", parts[0].dtype, shape)
    start = 0
    for part in parts:
        array[start : start + len(part)] = part
        start += len(part)
    array.flush()


def write_faiss(path: Path, parts: dict[str, list[NDArray]]) -> None:
    """Write a graph index (HNSW) of the vectors for scalar products."""
    import faiss

    scales: list[NDArray | None] = [*parts["_scale"]] or [None] * len(parts[""])
    index = faiss.IndexHNSWFlat(parts[""][0].shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    for part, scale in zip(parts[""], scales, strict=True):
        index.add(restored(part, scale).numpy())
    faiss.write_index(index, str(path))


def swap(temporary: Path, out: Path) -> None:
    """Put a finished folder into its place; what an interrupted call left of an earlier one goes."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    temporary.rename(out)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------- use


class Index:
    """An index as it is searched.

    Args:
        folder: That ``finelip index`` wrote.

    Attributes:
        about: Content of ``index.json``.

    Raises:
        UsageError: It is none.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.about: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"--index must be a folder that finelip index wrote, got {folder}") from error
        self.folder = folder
        self._vectors: dict[str, NDArray] = {}
        self._shards: dict[Path, dict[str, NDArray]] = {}
        self._starts = {
            side: np.cumsum([0, *(shard["items"] for shard in self.about[f"{side}_shards"])]) for side in SIDES
        }

    def require_model(self, model: FineLIP, weights: Path) -> None:
        """Refuse a model other than the one that made the index.

        Args:
            model: The model.
            weights: Where it was read, for the error message.

        Raises:
            UsageError: It is another one.
        """
        if self.about["model"] != fingerprint(model):
            raise UsageError(
                f"--index must have been made by the model of --weights, which is {weights}; {self.folder} was made by "
                "another one"
            )

    def names(self, side: Side) -> list[str]:
        """Names of the items of a side."""
        return self.about[side]

    @property
    def owner(self) -> Tensor:
        """``(texts,)`` row of each text's picture; -1 where there is none."""
        return torch.tensor(self.about["owner"], dtype=torch.long)

    def vectors(self, side: Side, suffix: str = "") -> NDArray:
        """The stored global vectors of a side as a memory map, or their scales (``_scale``)."""
        name = side + suffix
        if name not in self._vectors:
            self._vectors[name] = np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return self._vectors[name]

    def scale(self, side: Side) -> NDArray | None:
        """The scales of int8 vectors."""
        return self.vectors(side, "_scale") if self.about["precision"] == "int8" else None

    def wide_vectors(self, side: Side, rows: slice | NDArray) -> Tensor:
        """``(n, D)`` float32 global vectors of some rows."""
        scale = self.scale(side)
        return restored(self.vectors(side)[rows], None if scale is None else scale[rows])

    def global_scores(self, side: Side, queries: Tensor) -> Tensor:
        """``(Q, N)`` exact global scores of queries with all items of a side."""
        return exact_scores(self.vectors(side), queries, self.scale(side))

    def first_stage(self, side: Side, queries: Tensor, top: int, faiss: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Rows and global scores of the best items for each query, the best first.

        Args:
            side: What is searched.
            queries: ``(Q, D)``.
            top: How many.
            faiss: By the FAISS index, which may miss some.

        Raises:
            UsageError: FAISS is not installed, or the index was built without it.
        """
        if not faiss:
            scores = self.global_scores(side, queries)
            return [(rows := exact_top(row, top), row[rows]) for row in scores]
        file = self.folder / f"{side}.faiss"
        if find_spec("faiss") is None:
            raise UsageError("--faiss true needs the package faiss-cpu, which is not installed")
        if not file.is_file():
            raise UsageError(f"--faiss true needs an index built with --faiss true, got {self.folder}")
        import faiss as library

        graph = library.read_index(str(file))
        graph.hnsw.efSearch = max(2 * top, 64)
        scores, rows = graph.search(queries.float().numpy(), min(top, len(self.names(side))))
        return [
            (torch.from_numpy(found[found >= 0]), torch.from_numpy(score[found >= 0]))
            for found, score in zip(rows, scores, strict=True)
        ]

    def shard(self, side: Side, number: int) -> dict[str, NDArray]:
        """The arrays of a shard.

        Raises:
            RunError: It is not where it was, or has been changed.
        """
        told = self.about[f"{side}_shards"][number]
        path = self.folder / told["path"]
        if path not in self._shards:
            arrays = open_shard(path)
            if len(arrays["rows"]) != told["items"]:
                raise RunError(f"{path} has changed since the index was made: run finelip index again")
            self._shards[path] = arrays
        return self._shards[path]

    def _places(self, side: Side, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Shard and row in it of each row of the index."""
        starts = self._starts[side]
        numbers = np.searchsorted(starts, rows, side="right") - 1
        return [(int(number), int(row - starts[number])) for number, row in zip(numbers, rows, strict=True)]

    def sets(self, side: Side, rows: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """``(n, T, D)`` float32 sets of some rows and, where they have unequal numbers of tokens, ``(n, T)`` masks."""
        places = self._places(side, rows)
        shards = [(self.shard(side, number), row) for number, row in places]
        longest = max(shard["tokens"].shape[1] for shard, _ in shards)
        ragged = any("mask" in shard or shard["tokens"].shape[1] < longest for shard, _ in shards)
        first = shards[0][0]["tokens"]
        stored = np.zeros((len(rows), longest, first.shape[2]), first.dtype)
        scales = np.ones((len(rows), longest), np.float32) if "tokens_scale" in shards[0][0] else None
        mask = np.zeros((len(rows), longest), bool) if ragged else None
        for at, (shard, row) in enumerate(shards):
            tokens = shard["tokens"][row]
            start = longest - len(tokens)  # the global token of a text stays last
            stored[at, start:] = tokens
            if scales is not None:
                scales[at, start:] = shard["tokens_scale"][row]
            if mask is not None:
                mask[at, start:] = shard["mask"][row] if "mask" in shard else True
        return restored(stored, scales), None if mask is None else torch.from_numpy(mask)

    def thumbnail(self, row: int) -> bytes | None:
        """The JPEG of a picture, where the encoding kept one."""
        [(number, place)] = self._places("images", [row])
        shard = self.shard("images", number)
        if "thumbnail_ends" not in shard:
            return None
        ends = shard["thumbnail_ends"]
        return shard["thumbnails"][0 if place == 0 else int(ends[place - 1]) : int(ends[place])].tobytes()
