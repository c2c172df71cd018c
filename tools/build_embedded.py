"""Rebuild the arrays that packages ship from the packages they were taken from, byte for byte.

Run ``python tools/build_embedded.py --root FOLDER``, where FOLDER holds the idx files of Debian's package
dataset-fashion-mnist 0.0~git20200523.55506a9-1.
"""

import argparse
from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from fedseca.data import MINI_FILE, FashionMnist
from shared.data.labelled_images import LabelledImages

_FEDSECA = Path(__file__).parents[1] / "packages/fedseca/src/fedseca"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip archive can hold


def first_per_class(data: LabelledImages, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` pictures of each class in the set's own order, ``(N, H, W)`` grey, and their uint8 labels."""
    rows = np.sort(np.concatenate([np.flatnonzero(data.labels == c)[:count] for c in range(len(data.class_names))]))
    return np.asarray(data.pixels(rows))[..., 0], data.labels[rows].astype(np.uint8)


def fashion_mnist_mini(root: Path) -> dict[str, np.ndarray]:
    """300 training and 100 test pictures of each class."""
    sets = FashionMnist(root).load()
    assert sets.test is not None
    x_train, y_train = first_per_class(sets.train, 300)
    x_test, y_test = first_per_class(sets.test, 100)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An ``.npz`` archive whose bytes depend on nothing but the arrays and the version of zlib.

    ``numpy.savez_compressed`` would do but for the time stamps.
    """
    archive = BytesIO()
    with ZipFile(archive, "w") as stream:
        for name in sorted(arrays):
            member = BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), version=(1, 0), allow_pickle=False)
            entry = ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system = 3  # the host system is written into the archive: always say Unix
            stream.writestr(entry, member.getvalue(), ZIP_DEFLATED, 9)
    return archive.getvalue()


def main() -> None:
    """Write the file and print its checksum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--root", type=Path, default=FashionMnist().root, help="folder of the idx files")
    parser.add_argument("--out", type=Path, default=_FEDSECA / MINI_FILE, help="file to write")
    options = parser.parse_args()
    content = npz_bytes(fashion_mnist_mini(options.root))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(content)
    print(f"{sha256(content).hexdigest()}  {options.out.name}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
