"""The presets on tiny input: what they write is read, an interrupted one goes on."""

import csv
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedseca.blobs import Blobs
from fedseca.cifar10 import Cifar10
from fedseca.data import CLASS_NAMES, FederatedImages
from fedseca.isic2019 import FedIsic2019
from fedseca.prepare import PRESETS, run
from shared.data.class_partition import MergedDirichlet, MergedShards
from shared.data.image_folder import ImageFolder
from shared.data.labelled_images import LabelledImages
from shared.data.npz import Npz
from shared.errors import UsageError


def pixels(data: LabelledImages | None) -> np.ndarray:
    assert data is not None
    return np.stack(list(data.pixels(np.arange(len(data)))))


def prepare(preset: str, *words: str) -> None:
    run(["prepare", "--preset", preset, *words])


def test_every_preset_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    run(["prepare"])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in PRESETS)


# ---------------------------------------------------------------------- cifar10-export


@pytest.fixture
def cifar10_npz(tmp_path: Path) -> Path:
    root = tmp_path / "npz"
    root.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 400), ("test", 20)):
        images = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        np.savez(root / f"cifar10_{part}.npz", images=images, labels=(np.arange(count) % 10).astype(np.uint8))
    return root


def test_the_export_of_cifar10_is_the_same_data_and_the_same_clients(cifar10_npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("cifar10-export", "--root", str(cifar10_npz), "--out", str(out), "--seed", "5")
    before, after = Cifar10(cifar10_npz).load(), Cifar10(out).load()
    np.testing.assert_array_equal(pixels(before.train), pixels(after.train))
    np.testing.assert_array_equal(pixels(before.test), pixels(after.test))
    assert after.validation is None
    with (out / "cifar10_train_data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", "image_id", "label", "fold", "y_alpha_id"]
    assert (rows[7]["filename"], rows[7]["image_id"], rows[7]["label"], rows[7]["fold"]) == (
        "00007.png",
        "7",
        "7",
        "train",
    )
    assert {int(row["y_alpha_id"]) for row in rows} <= set(range(100))
    drawn = FederatedImages(Cifar10(cifar10_npz), 5, MergedDirichlet(1.0, 100), seed=5)
    read = FederatedImages(Cifar10(out), 5, MergedShards("y_alpha_id"), seed=99)
    for one, other in zip(drawn.shares, read.shares, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_interrupted_export_goes_on(cifar10_npz: Path, tmp_path: Path) -> None:
    words = ("--root", str(cifar10_npz), "--out", str(tmp_path / "out"))
    prepare("cifar10-export", *words)
    kept, lost = (tmp_path / "out" / "train_images" / f"{n:05d}.png" for n in (3, 4))
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    (tmp_path / "out" / "cifar10_train_data.csv").unlink()
    prepare("cifar10-export", *words)
    assert kept.stat().st_mtime_ns == stamp
    assert len(Cifar10(tmp_path / "out").load().train) == 400
    with pytest.raises(UsageError, match=r"--out must be a new folder, or one of the same preset and options"):
        prepare("cifar10-export", *words, "--seed", "1")


def test_levels_and_validation_pictures_are_exported(cifar10_table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("cifar10-export", "--root", str(cifar10_table), "--out", str(out), "--alphas", "{y: 1.0, z: 100}")
    before, after = Cifar10(cifar10_table).load(), Cifar10(out).load()
    np.testing.assert_array_equal(pixels(before.validation), pixels(after.validation))
    assert {"y_alpha_id", "z_alpha_id"} <= after.train.columns.keys()
    with pytest.raises(UsageError, match=r"--alphas must be positive, got 0.0 for x"):
        prepare("cifar10-export", "--root", str(cifar10_table), "--out", str(tmp_path / "o"), "--alphas", "{x: 0}")


# ---------------------------------------------------------------------- fed-isic2019


def test_isic_from_the_published_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    (root / "ISIC_2019_Training_Input").mkdir(parents=True)
    rows = ["image,target,center,fold"]
    for n in range(6):
        picture = np.random.default_rng(n).integers(256, size=(60, 80, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / "ISIC_2019_Training_Input" / f"ISIC_{n}.jpg")
        rows.append(f"ISIC_{n},{n % 8},{n % 2},{'train' if n < 4 else 'test'}")
    words = ("--root", str(root), "--out", str(out), "--shorter_side", "30")
    prepare("fed-isic2019", *words)
    assert "still missing: the table train_test_split" in capsys.readouterr().out
    (root / "train_test_split").write_text("\n".join(rows) + "\n")
    prepare("fed-isic2019", *words)
    assert "0 images written, 6 were there" in capsys.readouterr().out
    sets = FedIsic2019(out).load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test)) == (4, 2)
    assert sets.train[0][0].shape == (30, 40, 3)
    with pytest.raises(UsageError, match=r"--root must hold ISIC_2019_Training_Input with its .jpg files, got"):
        prepare("fed-isic2019", "--root", str(tmp_path), "--out", str(tmp_path / "other"))


# ---------------------------------------------------------------------- blobs and Fashion-MNIST


def test_blobs_as_folders_and_as_an_archive(tmp_path: Path) -> None:
    few = ("--train", "24", "--test", "12", "--classes", "3", "--size", "8")
    for layout in ("folders", "npz"):
        prepare("blobs", "--out", str(tmp_path / layout), "--layout", layout, *few)
    made = Blobs(train=24, test=12, classes=3, size=8).load()
    folders = ImageFolder(tmp_path / "folders", provenance="synthetic").load()
    archive = Npz(tmp_path / "npz" / "blobs.npz", provenance="synthetic").load()
    np.testing.assert_array_equal(pixels(made.train), pixels(archive.train))
    np.testing.assert_array_equal(pixels(made.test), pixels(archive.test))
    assert folders.train.class_names == archive.train.class_names == made.train.class_names
    order = np.argsort(made.train.labels, kind="stable")
    np.testing.assert_array_equal(pixels(folders.train), pixels(made.train)[order])
    prepare("blobs", "--out", str(tmp_path / "npz"), "--layout", "npz", *few)
    grey = ("--out", str(tmp_path / "grey"), "--channels", "1", *few)
    prepare("blobs", *grey)
    assert ImageFolder(tmp_path / "grey").load().train[0][0].shape == (8, 8, 1)


def test_fashion_mnist_becomes_an_archive(tmp_path: Path) -> None:
    root, out = tmp_path / "idx", tmp_path / "out"
    root.mkdir()
    images = np.random.default_rng(0).integers(256, size=(20, 28, 28), dtype=np.uint8)
    labels = (np.arange(20) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        content = struct.pack(">4i", 0x803, 20, 28, 28) + images.tobytes()
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + labels.tobytes())
    prepare("fashion-mnist", "--root", str(root), "--out", str(out))
    sets = Npz(out / "fashion_mnist.npz").load()
    np.testing.assert_array_equal(pixels(sets.train)[..., 0], images)
    assert sets.train.class_names == CLASS_NAMES
    assert sets.test is not None
    assert sets.test.labels.tolist() == labels.tolist()
    with pytest.raises(UsageError, match=r"--root must be a folder with the four idx files of Fashion-MNIST"):
        prepare("fashion-mnist", "--root", str(tmp_path / "absent"), "--out", str(tmp_path / "o"))
