"""The idx files of MNIST and its relatives (Fashion-MNIST, KMNIST, EMNIST …)."""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shared.data.labelled_images import LabelledImages, Provenance
from shared.data.sources import ImageSets, Source, existing, named_classes
from shared.errors import UsageError

_UNSIGNED_BYTE = 0x08


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """Read one idx file of bytes, gzipped if its name ends in ``.gz``.

    The layout is big-endian: two zero bytes, the element type (0x08, unsigned byte), the number of axes, one int32
    per axis, then the elements in C order. Source: http://yann.lecun.com/exdb/mnist/.

    Args:
        path: The file.
        ndim: The number of axes it must have: 3 for images, 1 for labels.

    Returns:
        uint8 of ``ndim`` axes, read-only.

    Raises:
        UsageError: The file is damaged, of another type, or not as long as its header says.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"data.source.root: {path} must be a readable idx file ({error})") from error
    header = 4 + 4 * ndim
    magic = bytes((0, 0, _UNSIGNED_BYTE, ndim))
    if len(content) < header or content[:4] != magic:
        raise UsageError(
            f"data.source.root: {path} must begin with the idx header 0x{magic.hex()}, got 0x{content[:4].hex()}"
        )
    shape = struct.unpack(f">{ndim}i", content[4:header])
    if min(shape) < 0 or math.prod(shape) != len(content) - header:
        raise UsageError(
            f"data.source.root: {path} must hold the {' x '.join(map(str, shape))} bytes of its header, "
            f"got {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


class Idx(Source):
    """Four files: ``{train,t10k}-images-idx3-ubyte`` and ``{train,t10k}-labels-idx1-ubyte``, raw or ``.gz``.

    Args:
        root: The folder that holds them.
        class_names: Names of the classes; without them the numbers that occur.
        name: What the set is called; without it the folder's name.
        provenance: Whether the pictures are real, derived or synthetic.
    """

    stored_channels = 1

    def __init__(
        self,
        root: str | Path,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        provenance: Provenance = "real",
    ) -> None:
        self.root = Path(root)
        self.class_names = class_names
        self.name = name if name is not None else self.root.name
        self.provenance: Provenance = provenance

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        train_images, train_labels = _images_and_labels(root, "train")
        test_images, test_labels = _images_and_labels(root, "t10k")
        classes = named_classes(train_labels, self.class_names, f"{self.name} train")
        return ImageSets(
            LabelledImages(train_images, train_labels, classes, name=f"{self.name} train", provenance=self.provenance),
            LabelledImages(test_images, test_labels, classes, name=f"{self.name} test", provenance=self.provenance),
        )


def _images_and_labels(root: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(_raw_or_gz(root, f"{part}-images-idx3-ubyte"), ndim=3)
    labels = read_idx(_raw_or_gz(root, f"{part}-labels-idx1-ubyte"), ndim=1)
    if len(images) != len(labels):
        raise UsageError(
            f"data.source.root: the {part} files must hold one label per image, "
            f"{root} has {len(images)} images and {len(labels)} labels"
        )
    return images, labels


def _raw_or_gz(root: Path, name: str) -> Path:
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise UsageError(f"data.source.root must be a folder that holds {name} or {name}.gz, {root} has neither")
