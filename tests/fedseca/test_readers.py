"""Readers of the public data sets, on archives of 20 images in their exact layout."""

import csv
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedseca.blobs import Blobs, smoothed
from fedseca.cifar10 import Cifar10, read_batch
from fedseca.color_constancy import shades_of_grey
from fedseca.data import FederatedImages
from fedseca.eurosat import EuroSat, write_tables
from fedseca.isic2019 import FedIsic2019, prepare_isic2019
from shared.data.class_partition import MergedShards, WholeClasses
from shared.data.labelled_images import LabelledImages
from shared.data.partition import IID, ByColumn
from shared.errors import UsageError


def pixels(data: LabelledImages | None) -> np.ndarray:
    assert data is not None
    return np.stack(list(data.pixels(np.arange(len(data)))))


# ---------------------------------------------------------------------- CIFAR-10


def expected_pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(20, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("inside", [False, True])
def test_the_binary_version_of_cifar10(cifar10_binary: Path, inside: bool) -> None:
    sets = Cifar10(cifar10_binary / "cifar-10-batches-bin" if inside else cifar10_binary).load()
    assert sets.test is not None
    np.testing.assert_array_equal(pixels(sets.train), expected_pictures()[:10])
    np.testing.assert_array_equal(pixels(sets.test), expected_pictures()[10:])
    assert sets.train.labels.tolist() == sets.test.labels.tolist() == list(range(10))
    assert sets.train.class_names[::9] == ("airplane", "truck")
    assert (sets.train.name, sets.train.provenance) == ("cifar10 train", "real")


def test_the_planes_of_a_row_are_red_green_blue(tmp_path: Path) -> None:
    row = np.concatenate([[3], np.full(1024, 10), np.arange(1024) // 32, np.full(1024, 30)]).astype(np.uint8)
    row.tofile(tmp_path / "batch.bin")
    images, labels = read_batch(tmp_path / "batch.bin")
    assert labels.tolist() == [3]
    assert images[0, 5, 9].tolist() == [10, 5, 30]


def test_the_exported_tables_of_cifar10(cifar10_table: Path) -> None:
    sets = Cifar10(cifar10_table).load()
    assert sets.validation is not None
    assert sets.test is not None
    assert [len(part) for part in (sets.train, sets.validation, sets.test)] == [10, 2, 8]
    np.testing.assert_array_equal(pixels(sets.test), expected_pictures()[12:])
    assert sets.train.columns["y_alpha_id"].tolist() == [(7 * i + 3) % 100 for i in range(12) if i % 6 != 5]
    assert sets.test.labels.tolist() == [i % 10 for i in range(12, 20)]
    data = FederatedImages(Cifar10(cifar10_table), clients=2, partition=MergedShards())
    assert data.describe()["images"] == {"train": 10, "validation": 2, "test": 8}
    (cifar10_table / "cifar10_train_data.csv").rename(cifar10_table / "cifar10_fedrise_train_split.csv")
    assert len(Cifar10(cifar10_table).load().train) == 10


def test_an_npz_pack_of_cifar10(tmp_path: Path) -> None:
    for part, at in (("train", slice(10)), ("test", slice(10, 20))):
        labels = (np.arange(20) % 10).astype(np.uint8)
        np.savez(tmp_path / f"cifar10_{part}.npz", images=expected_pictures()[at], labels=labels[at])
    sets = Cifar10(tmp_path).load()
    np.testing.assert_array_equal(pixels(sets.test), expected_pictures()[10:])
    assert sets.train.class_names[3] == "cat"


@pytest.mark.data
def test_the_real_pack_of_cifar10(data_pack: Callable[[str], Path]) -> None:
    sets = Cifar10(data_pack("cifar10")).load()
    assert sets.test is not None
    assert sets.train.class_counts().tolist() == [1000] * 10
    assert sets.test.class_counts().tolist() == [200] * 10
    assert sets.train.class_names[::9] == ("airplane", "truck")
    assert pixels(sets.test).shape == (2000, 32, 32, 3)


def test_the_pickled_version_is_refused_and_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    for root in (tmp_path, folder):
        with pytest.raises(
            UsageError, match=r"must not be the pickled version .* take the binary version, cifar-10-bin"
        ):
            Cifar10(root).load()
    assert not (tmp_path / "ran").exists()


def test_bad_folders_of_cifar10(cifar10_binary: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.root must be an existing folder, got .*absent"):
        Cifar10(tmp_path / "absent").load()
    with pytest.raises(UsageError, match=r"data.source.layout must be one of binary, table, npz, got 'x'"):
        Cifar10(tmp_path, layout="x")  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"must hold cifar-10-batches-bin, .* has none of them"):
        Cifar10(tmp_path / "empty").load()
    (cifar10_binary / "cifar10_train.npz").touch()
    with pytest.raises(UsageError, match=r"layout must say which one to read, .* holds binary and npz"):
        Cifar10(cifar10_binary).load()
    assert len(Cifar10(cifar10_binary, layout="binary").load().train) == 10
    batch = cifar10_binary / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"data_batch_3.bin must hold rows of 3073 bytes, got 6145 bytes"):
        Cifar10(cifar10_binary, layout="binary").load()
    batch.unlink()
    with pytest.raises(UsageError, match=r"batch of CIFAR-10 must be an existing file, got .*data_batch_3.bin"):
        Cifar10(cifar10_binary, layout="binary").load()


# ---------------------------------------------------------------------- Fed-ISIC2019


def test_flambys_layout_of_isic(isic2019: Path) -> None:
    sets = FedIsic2019(isic2019).load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test)) == (13, 7)
    assert sets.train.class_names == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    assert sets.train.class_counts()[8] == 0
    assert sets.train[0][0].shape == (224, 300, 3)
    assert sets.test[0][0].shape == (298, 224, 3)
    data = FederatedImages(FedIsic2019(isic2019), clients=6, partition=ByColumn("center"), image_size=200)
    assert [sum(counts) for counts in data.describe()["clients"].values()] == [3, 2, 2, 2, 2, 2]


def test_both_forms_of_the_isic_tables_are_the_same_data(isic2019: Path) -> None:
    both = FedIsic2019(isic2019).load()
    split = isic2019 / "train_test_split"
    with split.open(newline="") as file:
        rows = list(csv.DictReader(file))
    split.unlink()
    for fold, name in (("train", "isic_train_data-noval.csv"), ("test", "isic_test_data.csv")):
        lines = [f"{r['image']},{r['target']},{r['center']},{fold}" for r in rows if r["fold"] == fold]
        (isic2019 / name).write_text("\n".join(["image,target,center,fold", *lines]) + "\n")
    pair = FedIsic2019(isic2019).load()
    for one, other in ((both.train, pair.train), (both.test, pair.test)):
        assert one is not None
        assert other is not None
        assert one.labels.tolist() == other.labels.tolist()
        assert one.columns["center"].tolist() == other.columns["center"].tolist()
        np.testing.assert_array_equal(one[0][0], other[0][0])
    (isic2019 / "isic_train_data-noval.csv").unlink()
    with pytest.raises(UsageError, match=r"must hold train_test_split or isic_train_data-noval.csv, .* has neither"):
        FedIsic2019(isic2019).load()


def test_test_images_are_cut_out_of_the_middle(isic2019: Path) -> None:
    options = {"clients": 6, "partition": ByColumn("center"), "image_size": 200, "mean": [0.0], "std": [1.0]}
    source = FedIsic2019(isic2019)
    data = FederatedImages(source, eval_crop=True, **options)  # type: ignore[arg-type]
    images, _ = next(iter(data.test_dataloader()))
    sets = source.load()
    assert sets.test is not None
    middle = sets.test[0][0][49:249, 12:212]
    np.testing.assert_allclose(images[0].permute(1, 2, 0).numpy() * 255, middle, atol=1e-4)
    training, _ = data.train_dataset[0]
    assert training.shape == (3, 200, 200)
    with pytest.raises(UsageError, match=r"data.eval_crop needs data.image_size, the pixels to cut out, got null"):
        FederatedImages(source, eval_crop=True)


def slow_color_constancy(image: np.ndarray) -> np.ndarray:
    """The six lines that FLamby's scripts run, in float32 as there."""
    values = image.astype("float32")
    light = np.power(np.mean(np.power(values, 6), (0, 1)), 1 / 6)
    light = light / np.sqrt(np.sum(np.power(light, 2.0)))
    return np.clip(values * (1 / (light * np.sqrt(3))), 0, 255).astype(np.uint8)


def test_color_constancy_by_its_formula() -> None:
    image = np.random.default_rng(0).integers(1, 256, size=(20, 30, 3), dtype=np.uint8)
    image[..., 2] //= 2
    difference = shades_of_grey(image).astype(int) - slow_color_constancy(image)
    assert np.abs(difference).max() <= 1  # where float32 falls on the other side of an integer
    assert np.mean(difference != 0) < 0.01
    balanced = (shades_of_grey(image).astype(float) ** 6).mean((0, 1)) ** (1 / 6)
    np.testing.assert_allclose(balanced / balanced.mean(), 1, atol=0.03)
    assert shades_of_grey(np.zeros((2, 2, 3), np.uint8)).max() == 0


def test_isic_pictures_are_prepared_once(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    Image.fromarray(np.full((450, 600, 3), (200, 150, 120), np.uint8)).save(raw / "ISIC_1.jpg")
    Image.fromarray(np.full((600, 450), 90, np.uint8)).save(raw / "ISIC_2.jpg")
    assert prepare_isic2019(raw, out) == 2
    with Image.open(out / "ISIC_1.jpg") as first, Image.open(out / "ISIC_2.jpg") as second:
        assert (first.size, second.size) == ((298, 224), (224, 298))
        assert np.ptp(np.asarray(first)[100, 100].astype(int)) <= 2  # the light was reddish
    stamp = (out / "ISIC_1.jpg").stat().st_mtime_ns
    (out / "ISIC_2.jpg").unlink()
    assert prepare_isic2019(raw, out) == 1
    assert (out / "ISIC_1.jpg").stat().st_mtime_ns == stamp
    assert {path.name for path in out.iterdir()} == {"ISIC_1.jpg", "ISIC_2.jpg"}
    with pytest.raises(UsageError, match=r"must hold .jpg files, .* has none"):
        prepare_isic2019(tmp_path, out)


# ---------------------------------------------------------------------- EuroSAT


def test_eurosat_holds_out_a_share_of_each_class(eurosat: Path) -> None:
    sets, again = EuroSat(eurosat).load(), EuroSat(eurosat).load()
    assert sets.test is not None
    assert again.test is not None
    assert sets.train.class_names[::9] == ("AnnualCrop", "SeaLake")
    assert sets.train.class_counts().tolist() == sets.test.class_counts().tolist() == [1] * 10
    assert (sets.train.name, sets.test.name) == ("eurosat train", "eurosat test")
    np.testing.assert_array_equal(pixels(sets.test), pixels(again.test))
    other = EuroSat(eurosat, seed=1).load().test
    assert not np.array_equal(pixels(sets.test), pixels(other))
    data = FederatedImages(EuroSat(eurosat), clients=5, partition=IID())
    assert data.describe()["images"] == {"train": 10, "test": 10}


def test_the_tables_of_eurosat_win(eurosat: Path) -> None:
    names = [str(path.relative_to(eurosat / "EuroSAT_RGB")) for path in sorted(eurosat.rglob("*.jpg"))]
    rows = [f"{name},{i // 2},{i % 7},{'train'}" for i, name in enumerate(names)]
    header = "filename,target,center,fold"
    (eurosat / "eurosat_train_data_noval.csv").write_text("\n".join([header, *rows[:14]]) + "\n")
    (eurosat / "eurosat_test_data.csv").write_text("\n".join([header, *rows[14:]]) + "\n")
    sets = EuroSat(eurosat).load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test)) == (14, 6)
    assert sets.train.class_names[9] == "SeaLake"
    data = FederatedImages(EuroSat(eurosat), clients=7, partition=ByColumn())
    assert [sum(counts) for counts in data.describe()["clients"].values()] == [2] * 7


def test_a_drawn_split_is_recorded_and_read_back(eurosat: Path) -> None:
    drawn = EuroSat(eurosat).load()
    write_tables(eurosat, clients=5, partition=WholeClasses())
    assert (eurosat / "eurosat_train_data_noval.csv").read_text().startswith("filename,target,center,fold\nAnnualCrop/")
    recorded = EuroSat(eurosat).load()
    for one, other in ((drawn.train, recorded.train), (drawn.test, recorded.test)):
        assert one is not None
        assert other is not None
        assert one.files == other.files
        assert one.labels.tolist() == other.labels.tolist()
    data = FederatedImages(EuroSat(eurosat), clients=5, partition=ByColumn())
    assert data.describe()["clients"]["3"] == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    with pytest.raises(UsageError, match=r"must not hold eurosat_train_data_noval.csv yet, .* a record is never"):
        write_tables(eurosat)


def test_a_folder_without_eurosat_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images of EuroSAT must be an existing folder, got .*EuroSAT_RGB"):
        EuroSat(tmp_path).load()


# ---------------------------------------------------------------------- Blobs


@pytest.mark.parametrize("length", [2.0, 8.0])
def test_fields_have_the_correlation_they_are_named_for(length: float) -> None:
    fields = smoothed(np.random.default_rng(0).standard_normal((400, 64, 64)), length)
    assert fields.std() == pytest.approx(1, abs=0.03)
    for shift in (1, 4, 8):
        measured = np.mean(fields[..., shift:, :] * fields[..., :-shift, :])
        assert measured == pytest.approx(np.exp(-(shift**2) / (2 * length**2)), abs=0.06)


def test_blobs_can_be_learnt_and_do_not_depend_on_their_number() -> None:
    sets, few = Blobs(train=200, test=100).load(), Blobs(train=7, test=3).load()
    assert sets.test is not None
    assert (sets.train.provenance, sets.train[0][0].shape) == ("synthetic", (32, 32, 3))
    np.testing.assert_array_equal(pixels(few.train), pixels(sets.train)[:7])
    np.testing.assert_array_equal(pixels(few.test), pixels(sets.test)[:3])
    assert not np.array_equal(pixels(sets.train)[:3], pixels(sets.test)[:3])
    train, test = (pixels(part).reshape(len(part), -1) / 255 for part in (sets.train, sets.test))
    means = np.stack([train[sets.train.labels == label].mean(0) for label in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert np.mean(nearest == sets.test.labels) > 0.95
    assert np.mean((train == 0) | (train == 1)) < 0.01
    assert not np.array_equal(pixels(Blobs(train=7, test=3, seed=1).load().train), pixels(few.train))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"train": 0}, "data.source.train must be at least 1, got 0"),
        ({"classes": 1}, "data.source.classes must be at least 2, got 1"),
        ({"channels": 2}, "data.source.channels must be 1 or 3, got 2"),
    ],
)
def test_bad_options_of_blobs(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Blobs(**options)
