"""CIFAR-10 as it is published and as it is passed on."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np

from shared.data.csv_table import CsvTable
from shared.data.labelled_images import LabelledImages
from shared.data.npz import Npz
from shared.data.sources import ImageSets, Source, existing
from shared.errors import UsageError

Layout = Literal["binary", "table", "npz"]

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BINARY_FOLDER = "cifar-10-batches-bin"
PICKLED_FOLDER = "cifar-10-batches-py"
TRAIN_TABLES = ("cifar10_train_data.csv", "cifar10_fedrise_train_split.csv")
TEST_TABLE = "cifar10_test_data.csv"

_SIDE = 32
_ROW = 1 + 3 * _SIDE * _SIDE


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read one binary file: rows of one label byte and 1,024 red, green and blue bytes each.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".

    Returns:
        ``(N, 32, 32, 3)`` uint8 and ``(N,)`` uint8.

    Raises:
        UsageError: The file is missing, empty or holds no whole number of rows.
    """
    content = np.fromfile(existing(path, "data.source.root: a batch of CIFAR-10", "file"), np.uint8)
    if len(content) == 0 or len(content) % _ROW:
        raise UsageError(f"data.source.root: {path} must hold rows of {_ROW} bytes, got {len(content)} bytes")
    rows = content.reshape(-1, _ROW)
    planes = rows[:, 1:].reshape(-1, 3, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, 0].copy()


class Cifar10(Source):
    """CIFAR-10 from a folder that the user has, in one of three layouts.

    - ``binary``: ``cifar-10-batches-bin/`` (or the folder itself) with ``data_batch_1.bin`` to ``data_batch_5.bin``,
      ``test_batch.bin`` and ``batches.meta.txt``, as the authors publish it;
    - ``table``: ``train_images/`` and ``test_images/`` with ``cifar10_train_data.csv`` (or
      ``cifar10_fedrise_train_split.csv``) and ``cifar10_test_data.csv``, columns ``filename, image_id, label, fold``
      and one ``<alpha>_alpha_id`` per level of unevenness, which
      :class:`~shared.data.class_partition.MergedShards` divides by;
    - ``npz``: ``cifar10_train.npz`` and ``cifar10_test.npz`` with ``images`` and ``labels``.

    ``cifar-10-batches-py/``, which torchvision downloads, is pickled. Reading a pickle can run what it says, so it is
    refused in favour of the binary version: the same pixels, of the same authors, without that risk.

    Source: Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, University of Toronto, 2009.

    Args:
        root: The folder.
        layout: Which layout to read; ``None`` takes the one that is there.
        name: What the set is called.
    """

    class_names = CLASS_NAMES
    stored_channels = 3

    def __init__(self, root: str | Path, layout: Layout | None = None, name: str = "cifar10") -> None:
        if layout is not None and layout not in get_args(Layout):
            raise UsageError(f"data.source.layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")
        self.root = Path(root)
        self.layout = layout
        self.name = name

    def load(self) -> ImageSets:
        root = existing(self.root, "data.source.root", "folder")
        layout = self.layout or _layout_in(root)
        if layout == "binary":
            return self._binary(root if (root / "test_batch.bin").is_file() else root / BINARY_FOLDER)
        if layout == "npz":
            test = root / "cifar10_test.npz"
            return Npz(root / "cifar10_train.npz", test, class_names=CLASS_NAMES, name=self.name).load()
        return CsvTable(
            next((root / table for table in TRAIN_TABLES if (root / table).is_file()), root / TRAIN_TABLES[0]),
            root / "train_images",
            image="filename",
            split="fold",
            test_csv=root / TEST_TABLE,
            test_root=root / "test_images",
            class_names=CLASS_NAMES,
            name=self.name,
        ).load()

    def _binary(self, folder: Path) -> ImageSets:
        meta = existing(folder / "batches.meta.txt", "data.source.root: the class names of CIFAR-10", "file")
        names = meta.read_text(encoding="utf-8").split()
        batches = [read_batch(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return ImageSets(
            LabelledImages(images, labels, names, name=f"{self.name} train"),
            LabelledImages(*read_batch(folder / "test_batch.bin"), names, name=f"{self.name} test"),
        )


def _layout_in(root: Path) -> Layout:
    signs: dict[Layout, bool] = {
        "binary": (root / BINARY_FOLDER).is_dir() or (root / "test_batch.bin").is_file(),
        "table": any((root / table).is_file() for table in TRAIN_TABLES),
        "npz": (root / "cifar10_train.npz").is_file(),
    }
    found = [layout for layout, is_there in signs.items() if is_there]
    if len(found) > 1:
        raise UsageError(f"data.source.layout must say which one to read, {root} holds {' and '.join(found)}")
    if found:
        return found[0]
    if (root / PICKLED_FOLDER).is_dir() or (root / "data_batch_1").is_file():
        raise UsageError(
            f"data.source.root must not be the pickled version of CIFAR-10, which could run any code, got {root}: "
            f"take the binary version, cifar-10-binary.tar.gz"
        )
    raise UsageError(
        f"data.source.root must hold {BINARY_FOLDER}, {TRAIN_TABLES[0]} or cifar10_train.npz, {root} has none of them"
    )
