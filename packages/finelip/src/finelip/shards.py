"""Files of encoded items: written whole or not at all, read through memory maps."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shared.checkpoints import save_tensors
from shared.errors import RunError

Precision = Literal["fp16", "int8"]
Side = Literal["images", "texts"]
SIDES: tuple[Side, ...] = ("images", "texts")

DTYPES = {"F16": np.float16, "F32": np.float32, "I8": np.int8, "U8": np.uint8, "I64": np.int64, "BOOL": np.bool_}
QUALITY = 80


def quantised(vectors: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Vectors as they are stored, under the suffixes of their names.

    ``fp16`` is one tensor. ``int8`` is each vector divided by its own scale, its largest size over 127, and the scales.

    Args:
        vectors: ``(..., D)``.
        precision: One of the two.

    Example:
        >>> stored = quantised(torch.tensor([[1.27, -0.63]]), "int8")
        >>> stored[""].tolist(), round(stored["_scale"].item(), 6)
        ([[127, -63]], 0.01)
    """
    if precision == "fp16":
        return {"": vectors.half()}
    scale = (vectors.float().abs().amax(-1) / 127).clamp(min=1e-12)
    return {"": (vectors.float() / scale[..., None]).round().to(torch.int8), "_scale": scale}


def restored(stored: NDArray, scale: NDArray | None) -> Tensor:
    """Float32 vectors of what :func:`quantised` gave."""
    found = torch.from_numpy(np.ascontiguousarray(stored)).float()
    return found if scale is None else found * torch.from_numpy(np.ascontiguousarray(scale))[..., None]


def packed_thumbnails(pictures: Sequence[Image.Image], side: int) -> dict[str, Tensor]:
    """Pictures as small JPEGs, one after the other, and where each one ends.

    Args:
        pictures: In RGB.
        side: Most pixels of width and height; 0: no thumbnails.
    """
    if side == 0:
        return {}
    parts = []
    for picture in pictures:
        small = picture.copy()
        small.thumbnail((side, side))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=QUALITY)
        parts.append(stream.getvalue())
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    content = np.frombuffer(b"".join(parts), np.uint8).copy()
    return {"thumbnails": torch.from_numpy(content), "thumbnail_ends": torch.from_numpy(ends)}


def shard_path(folder: Path, side: Side, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{side}-{number:05d}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard; equal tensors give equal bytes."""
    save_tensors(path, tensors)


def open_shard(path: Path) -> dict[str, NDArray]:
    """The arrays of a shard as memory maps: nothing is read before it is looked at.

    Raises:
        RunError: The file is missing, cut short or none of these.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if 8 + length <= size else {}
        tensors = {name: about for name, about in head.items() if name != "__metadata__"}
        start = 8 + length
        if not tensors or start + max(about["data_offsets"][1] for about in tensors.values()) != size:
            raise ValueError("it is cut short")
        return {
            name: np.memmap(path, DTYPES[about["dtype"]], "c", start + about["data_offsets"][0], tuple(about["shape"]))
            if about["data_offsets"][0] < about["data_offsets"][1]
            else np.empty(tuple(about["shape"]), DTYPES[about["dtype"]])
            for name, about in tensors.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is no whole shard of finelip encode: delete it and encode again") from error


def is_whole_shard(path: Path) -> bool:
    """Whether a shard is there to its last byte."""
    try:
        return bool(open_shard(path))
    except RunError:
        return False
