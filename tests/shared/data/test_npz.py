from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.data.npz import Npz
from shared.errors import UsageError


def pictures(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(256, size=(count, 4, 4, channels), dtype=np.uint8)


def test_one_file_with_x_train(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    y_train, y_test = np.arange(6) % 3, np.arange(3)
    np.savez(
        path,
        x_train=pictures(6),
        y_train=y_train,
        x_test=pictures(3),
        y_test=y_test,
        who_train=y_train,
        who_test=y_test,
    )
    sets = Npz(path, columns=["who"], class_names=["a", "b", "c"], provenance="derived").load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test)) == (6, 3)
    assert sets.test.columns["who"].tolist() == [0, 1, 2]
    assert (sets.train.name, sets.train.class_names, sets.train.provenance) == ("all train", ("a", "b", "c"), "derived")


def test_two_files(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("test", 4)):
        np.savez(
            tmp_path / f"{name}.npz", images=pictures(count), labels=np.arange(count) % 2, class_names=["cat", "dog"]
        )
    sets = Npz(tmp_path / "train.npz", test=tmp_path / "test.npz").load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test), sets.test.class_names) == (6, 4, ("cat", "dog"))


def test_one_file_with_a_split_column(tmp_path: Path) -> None:
    split = np.array(["train", "test", "val", "train", "train"])
    path = tmp_path / "one.npz"
    np.savez(
        path,
        images=pictures(5)[..., 0],
        grade=np.array([0, 1, 0, 1, 0]),
        split=split,
        patient=np.arange(5),
        masks=np.ones(9),
    )
    sets = Npz(path, labels="grade", columns=("patient",)).load()
    assert sets.test is not None
    assert sets.validation is not None
    assert sets.train.columns["patient"].tolist() == [0, 3, 4]
    assert sets.test.columns["patient"].tolist() == [1]
    assert sets.validation.labels.tolist() == [0]
    alone = Npz(path, labels="grade", split="no such array").load()
    assert (len(alone.train), alone.test) == (5, None)


def save(path: Path, **changed: object) -> Path:
    arrays = {"images": pictures(4), "labels": np.arange(4) % 2, "split": ["train", "train", "train", "test"]}
    np.savez(path, **{key: value for key, value in (arrays | changed).items() if value is not None})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"images": None}, "must be an archive with the array 'images' .*, bad.npz has labels, split"),
        ({"images": None, "labels": None, "split": None, "z": 1}, "bad.npz has none of those asked for"),
        ({"images": np.zeros((4, 4, 4))}, "images must be uint8 of shape .*, bad train has float64 of shape"),
        ({"labels": np.array([0, 1])}, "arrays of bad.npz must have equal lengths, 'labels' has 2 and 'split' 4"),
        ({"labels": np.array([0, 1, 0, 7])}, "labels must lie in 0..1 .2 classes., bad test holds 7 in row 0"),
        ({"labels": np.array([0, 3, 0, 0])}, "every class must have an image .*, bad train has none of class 1"),
        ({"labels": np.array([0, 1, -1, 0])}, "labels must be integers from 0, .*bad train has other values"),
        ({"split": ["train", "odd", "train", "test"]}, "must name a column of train, .* holds 'odd' in row 1"),
        ({"split": ["val", "val", "test", "test"]}, "must mark at least one row for training, .* has none"),
        ({"labels": np.array([{}] * 4)}, "data.source.path must be a readable .npz archive of plain arrays, got .*bad"),
    ],
)
def test_bad_archives_are_told_in_one_sentence(tmp_path: Path, changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Npz(save(tmp_path / "bad.npz", **changed)).load()


def test_counts_of_images_and_labels_are_compared(tmp_path: Path) -> None:
    path = save(tmp_path / "bad.npz", split=None, labels=np.array([0, 1]))
    with pytest.raises(UsageError, match=r"bad train must hold one value of labels per image, got shape \(2,\) for 4"):
        Npz(path).load()


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.path must be an existing file, got .*absent.npz"):
        Npz(tmp_path / "absent.npz").load()
    good = save(tmp_path / "good.npz")
    with pytest.raises(UsageError, match=r"data.source.test must be an existing file, got .*absent.npz"):
        Npz(good, test=tmp_path / "absent.npz").load()
    for content in (b"", b"text", good.read_bytes()[:200]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(UsageError, match=r"data.source.path must be a readable .npz archive of plain arrays, got"):
            Npz(tmp_path / "bad.npz").load()
    np.savez_compressed(tmp_path / "packed.npz", images=pictures(4), labels=np.arange(4) % 2)
    whole = (tmp_path / "packed.npz").read_bytes()
    (tmp_path / "packed.npz").write_bytes(whole[:90] + b"\xff" * 9 + whole[99:])
    with pytest.raises(
        UsageError, match=r"data.source.path must be a readable .npz archive of plain arrays, got .*packed"
    ):
        Npz(tmp_path / "packed.npz").load()
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UsageError, match=r"data.source.path must be a readable .npz archive of plain arrays, got"):
        Npz(tmp_path / "array.npy").load()


@pytest.mark.data
def test_the_real_cifar10_pack(data_pack: Callable[[str], Path]) -> None:
    root = data_pack("cifar10")
    sets = Npz(root / "cifar10_train.npz", test=root / "cifar10_test.npz", columns=["source_index"]).load()
    assert sets.test is not None
    assert sets.train.class_counts().tolist() == [1000] * 10
    assert sets.test.class_counts().tolist() == [200] * 10
    assert sets.train.class_names[:3] == ("airplane", "automobile", "bird")
    assert sets.train[0][0].shape == (32, 32, 3)
    assert sets.train.columns["source_index"].max() == 999


@pytest.mark.data
def test_the_real_ultrasound_packs_split_by_subject(data_pack: Callable[[str], Path]) -> None:
    heads = Npz(data_pack("hc18") / "hc18_216x146.npz", labels="trimester", columns=["subject"]).load()
    assert heads.validation is not None
    assert heads.test is not None
    assert [len(heads.train), len(heads.validation), len(heads.test)] == [283, 43, 83]
    breasts = Npz(data_pack("busi") / "busi_128.npz", columns=["group"]).load()
    assert breasts.train.class_names == ("normal", "benign", "malignant")
    assert len(breasts.train) == 363
