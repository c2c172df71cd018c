"""Rebuild the arrays that packages ship from the packages they were taken from, byte for byte.

- ``python tools/build_embedded.py fashion-mnist-mini --root FOLDER``: FOLDER holds the idx files of Debian's package
  dataset-fashion-mnist 0.0~git20200523.55506a9-1.
- ``python tools/build_embedded.py mini-ixi --root FOLDER``: FOLDER holds ``ch2.nii.gz`` and ``ch2bet.nii.gz`` of
  Debian's package mricron-data 1.2.20211006+dfsg-4 (``usr/share/mricron/templates``).
- ``python tools/build_embedded.py mini-tissue --root FOLDER``: FOLDER holds the arrays of the Python package nilearn
  0.14.1 (``nilearn/datasets/data``).
- ``python tools/build_embedded.py echo-clip --root FOLDER``: FOLDER holds ``examples_ybr_color.dcm`` of the Python
  package pydicom 3.0 (``pydicom/data/test_files``).
"""

import argparse
from collections.abc import Callable, Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import nibabel
import numpy as np
import pydicom
from scipy import ndimage

from fedsam.mini_ixi import MINI_IXI_FILE
from fedsam.mini_tissue import MINI_TISSUE_FILE
from fedseca.data import MINI_FILE, FashionMnist
from shared.data.labelled_images import LabelledImages
from usssl.echo_clip import COLUMNS, ECHO_CLIP_FILE, ROWS

_PACKAGES = Path(__file__).parents[1] / "packages"
_FEDSAM = _PACKAGES / "fedsam/src/fedsam"
_FEDSECA = _PACKAGES / "fedseca/src/fedseca"
_USSSL = _PACKAGES / "usssl/src/usssl"
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


def halved(volume: np.ndarray) -> np.ndarray:
    """Linear resampling to twice the spacing, halfway between voxels: the mean of each block of eight, float64.

    A last odd plane is left out.
    """
    x, y, z = (side // 2 for side in volume.shape)
    blocks = volume[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2)
    return blocks.mean((1, 3, 5), dtype=np.float64)


def halved_affine(affine: np.ndarray, start: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """The affine of :func:`halved` of a volume whose first voxel is voxel ``start`` of the grid of ``affine``."""
    step = np.diag([2.0, 2.0, 2.0, 1.0])
    step[:3, 3] = np.array(start) + 0.5
    return affine @ step


def _loaded(path: Path) -> Any:
    return nibabel.load(path)  # its type says nothing of arrays


def mini_ixi(root: Path) -> dict[str, np.ndarray]:
    """Colin27 with its skull at 2 mm, and the largest connected part of its brain."""
    head, brain = (_loaded(root / name) for name in ("ch2.nii.gz", "ch2bet.nii.gz"))
    parts, _ = ndimage.label(np.asarray(brain.dataobj) > 0)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    return {
        "image": np.rint(halved(np.asarray(head.dataobj))).astype(np.uint8),
        "label": (halved(largest) >= 0.5).astype(np.uint8),
        "affine": halved_affine(head.affine),
    }


def mini_tissue(root: Path) -> dict[str, np.ndarray]:
    """The ICBM 152 average brain at 2 mm and where grey matter is more likely than not; air around it cut off."""
    box = np.s_[16:180, 16:216, 0:168]
    t1, gm = (_loaded(root / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz") for name in ("t1", "gm"))
    return {
        "image": np.rint(halved(np.asarray(t1.dataobj)[box])).astype(np.uint8),
        "label": (halved(np.asarray(gm.dataobj)[box]) > 127).astype(np.uint8),
        "affine": halved_affine(t1.affine, (box[0].start, box[1].start, box[2].start)),
    }


def echo_clip(root: Path) -> dict[str, np.ndarray]:
    """The moving region of the echocardiogram clip, grey: the mean of the channels."""
    frames = pydicom.dcmread(root / "examples_ybr_color.dcm").pixel_array
    return {"frames": np.rint(frames[:, ROWS, COLUMNS].mean(axis=-1)).astype(np.uint8)}


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


class Sample(NamedTuple):
    """How a shipped file is made, where its source lies by default, and where it goes."""

    build: Callable[[Path], dict[str, np.ndarray]]
    root: Path
    file: Path


SAMPLES = {
    "echo-clip": Sample(echo_clip, Path(pydicom.__file__).parent / "data/test_files", _USSSL / ECHO_CLIP_FILE),
    "fashion-mnist-mini": Sample(fashion_mnist_mini, FashionMnist().root, _FEDSECA / MINI_FILE),
    "mini-ixi": Sample(mini_ixi, Path("/usr/share/mricron/templates"), _FEDSAM / MINI_IXI_FILE),
    "mini-tissue": Sample(mini_tissue, Path("nilearn/datasets/data"), _FEDSAM / MINI_TISSUE_FILE),
}


def main() -> None:
    """Write the file and print its checksum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("sample", choices=SAMPLES, help="which file to rebuild")
    parser.add_argument("--root", type=Path, help="folder of the source package's files")
    parser.add_argument("--out", type=Path, help="file to write; the shipped one by default")
    options = parser.parse_args()
    sample = SAMPLES[options.sample]
    out = options.out or sample.file
    content = npz_bytes(sample.build(options.root or sample.root))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    print(f"{sha256(content).hexdigest()}  {out.name}  {len(content):,} bytes")


if __name__ == "__main__":
    main()
