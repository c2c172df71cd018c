"""``fedseca prepare``: the presets; libraries are imported by the preset that runs."""

import csv
import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shared.errors import UsageError
from shared.prepare import Preset, claim, prepare, write_images, write_npz, write_text

if TYPE_CHECKING:
    import numpy as np

    from shared.data.labelled_images import LabelledImages


def run(words: list[str]) -> None:
    """``fedseca prepare [--preset NAME] [options]``."""
    prepare("fedseca", PRESETS, words)


def fed_isic2019(root: str, out: str, shorter_side: int = 224) -> None:
    """Fed-ISIC2019 as FLamby has it: the published photographs made smaller, the light's colour taken out.

    The result is read by ``--data.source FedIsic2019 --data.source.root OUT``. The tables train_test_split, or
    isic_train_data-noval.csv and isic_test_data.csv, are copied where ROOT has them; else put one there.

    Args:
        root: Folder that holds ISIC_2019_Training_Input, or that folder itself.
        out: Folder to write.
        shorter_side: Pixels of the shorter side.
    """
    from fedseca.isic2019 import IMAGE_FOLDER, SPLIT_TABLES, TEST_TABLE, TRAIN_TABLES, prepare_isic2019
    from shared.data.sources import existing

    if shorter_side < 1:
        raise UsageError(f"--shorter_side must be at least 1, got {shorter_side}")
    source = existing(root, "--root", "folder")
    raw = source / "ISIC_2019_Training_Input"
    images = raw if raw.is_dir() else source
    if not any(images.glob("*.jpg")):
        raise UsageError(f"--root must hold ISIC_2019_Training_Input with its .jpg files, got {root}")
    folder = claim(out, "fed-isic2019", shorter_side=shorter_side)
    written = prepare_isic2019(images, folder / IMAGE_FOLDER, shorter_side)
    print(
        f"{folder / IMAGE_FOLDER}: {written:,} images written, {len(list(images.glob('*.jpg'))) - written:,} were there"
    )
    tables = [name for name in (*SPLIT_TABLES, *TRAIN_TABLES, TEST_TABLE) if (source / name).is_file()]
    for name in tables:
        temporary = folder / f"{name}.tmp"
        shutil.copyfile(source / name, temporary)
        temporary.replace(folder / name)
    if not tables:
        print(f"still missing: the table {SPLIT_TABLES[0]} of FLamby in {folder}")


def cifar10_export(root: str, out: str, alphas: dict[str, float] | None = None, seed: int = 73) -> None:
    """CIFAR-10 as the authors of FedSECA pass it on: PNG files, tables, and a column of 100 virtual clients.

    The column ``NAME_alpha_id`` of each level holds the virtual client of a picture, drawn per class from
    Dirichlet(alpha); ``--data.partition MergedShards --data.partition.column y_alpha_id`` merges neighbours into K
    clients, the same ones that ``MergedDirichlet`` draws from the same seed. The result is read by
    ``--data.source Cifar10 --data.source.root OUT``.

    Args:
        root: Folder with CIFAR-10 in any layout that is read: the binary version, tables, or an npz pack.
        out: Folder to write.
        alphas: Concentration of each level by its name; by default one level, y with 1.0.
        seed: Of the draws; the ``data.seed`` that MergedDirichlet would have.
    """
    import numpy as np

    from fedseca.cifar10 import TEST_TABLE, TRAIN_TABLES, Cifar10
    from shared.data.class_partition import virtual_owners
    from shared.data.datamodule import partition_stream

    levels = {"y": 1.0} if alphas is None else alphas
    for name, alpha in levels.items():
        if not alpha > 0:
            raise UsageError(f"--alphas must be positive, got {alpha} for {name}")
    sets = Cifar10(root).load()
    assert sets.test is not None  # every layout of CIFAR-10 has one
    folder = claim(out, "cifar10-export", alphas=levels, seed=seed)
    parts = [("train", sets.train)] + ([("valid", sets.validation)] if sets.validation is not None else [])
    rows: list[list[object]] = []
    for fold, data in parts:
        columns = {
            f"{name}_alpha_id": virtual_owners(data.labels, 100, alpha, partition_stream(seed))
            for name, alpha in levels.items()
        }
        names = [f"{len(rows) + row:05d}.png" for row in range(len(data))]
        _write_part(folder / "train_images", names, data, fold)
        for row, name in enumerate(names):
            shards = [int(column[row]) for column in columns.values()]
            rows.append([name, len(rows), int(data.labels[row]), fold, *shards])
    names = [f"{row:05d}.png" for row in range(len(sets.test))]
    _write_part(folder / "test_images", names, sets.test, "test")
    header = ["filename", "image_id", "label", "fold", *(f"{name}_alpha_id" for name in levels)]
    tested = zip(names, range(len(names)), np.asarray(sets.test.labels).tolist(), strict=True)
    _write_table(folder / TEST_TABLE, header[:3], [list(row) for row in tested])
    _write_table(folder / TRAIN_TABLES[0], header, rows)
    print(f"{folder}: {len(rows):,} training and {len(names):,} test images, {TRAIN_TABLES[0]}, {TEST_TABLE}")


def blobs(
    out: str,
    layout: Literal["folders", "npz"] = "folders",
    train: int = 3000,
    test: int = 1000,
    classes: int = 10,
    size: int = 32,
    channels: Literal[1, 3] = 3,
    seed: int = 0,
) -> None:
    """Synthetic pictures, a smooth field per class and noise: to try readers and timings without any data.

    Folders are read by ``--data.source ImageFolder --data.source.root OUT``, the archive by
    ``--data.source Npz --data.source.path OUT/blobs.npz``; add ``--data.source.provenance synthetic``.

    Args:
        out: Folder to write.
        layout: One folder of PNG files per class below train and test, or one npz archive.
        train: Training images.
        test: Test images.
        classes: Number of classes.
        size: Height and width.
        channels: 1 or 3.
        seed: Of everything.
    """
    import numpy as np

    from fedseca.blobs import Blobs

    made = {"train": train, "test": test, "classes": classes, "size": size, "channels": channels, "seed": seed}
    source = Blobs(train=train, test=test, classes=classes, size=size, channels=channels, seed=seed)
    folder = claim(out, "blobs", layout=layout, **made)
    if layout == "npz" and (folder / "blobs.npz").is_file():
        print(f"{folder / 'blobs.npz'} was there")
        return
    sets = source.load()
    assert sets.test is not None
    if layout == "npz":
        arrays: dict[str, np.ndarray] = {}
        for part, data in (("train", sets.train), ("test", sets.test)):
            arrays |= {f"x_{part}": _pixels(data), f"y_{part}": data.labels.astype(np.min_scalar_type(classes))}
        write_npz(folder / "blobs.npz", **arrays, class_names=np.array(sets.train.class_names))
        print(folder / "blobs.npz")
        return
    for part, data in (("train", sets.train), ("test", sets.test)):
        names = [f"{data.class_names[label]}/{row:05d}.png" for row, label in enumerate(data.labels)]
        _write_part(folder / part, names, data, part)
    print(f"{folder}: {train:,} training and {test:,} test images in {classes} folders each")


def fashion_mnist(out: str, root: str = "/usr/share/datasets/fashion-mnist") -> None:
    """The complete Fashion-MNIST as one npz archive, from its four idx files.

    The result is read by ``--data.source Npz --data.source.path OUT/fashion_mnist.npz``.

    Args:
        out: Folder to write.
        root: Folder with the idx files, raw or gzipped; Debian's package dataset-fashion-mnist puts them there.
    """
    import numpy as np

    from fedseca.data import FashionMnist

    sets = FashionMnist(root).load()
    assert sets.test is not None
    folder = claim(out, "fashion-mnist")
    file = folder / "fashion_mnist.npz"
    arrays: dict[str, np.ndarray] = {}
    for part, data in (("train", sets.train), ("test", sets.test)):
        arrays |= {f"x_{part}": _pixels(data)[..., 0], f"y_{part}": data.labels.astype(np.uint8)}
    write_npz(file, **arrays, class_names=np.array(sets.train.class_names))
    print(f"{file}: {len(sets.train):,} training and {len(sets.test):,} test images")


PRESETS: dict[str, Preset] = {
    "blobs": blobs,
    "cifar10-export": cifar10_export,
    "fashion-mnist": fashion_mnist,
    "fed-isic2019": fed_isic2019,
}
"""Name of a preset to its function."""


def _pixels(data: "LabelledImages") -> "np.ndarray":
    """All pictures of a set that is held in memory."""
    import numpy as np

    return np.asarray(data.pixels(np.arange(len(data))))


def _write_part(folder: Path, names: list[str], data: "LabelledImages", label: str) -> None:
    write_images([folder / name for name in names], lambda row: data.pixels([row])[0], label)


def _write_table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(path, text.getvalue())
