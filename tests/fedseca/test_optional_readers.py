"""Readers that need a library of their own: the parquet form of Fed-ISIC2019, and scikit-learn's digits."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedseca.data import FederatedImages
from fedseca.digits import Digits
from fedseca.isic2019 import FedIsic2019
from shared.data.labelled_images import LabelledImages
from shared.data.partition import ByColumn
from shared.errors import UsageError


def encoded(seed: int, width: int = 20) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(10, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.array(picture)


# ---------------------------------------------------------------------- pictures encoded in memory


def test_encoded_pictures_are_decoded_on_access() -> None:
    contents = [encoded(n, 10 + n) for n in range(4)]
    data = LabelledImages(contents, np.array([0, 1, 1, 0]), ["a", "b"], name="encoded")
    assert not data.in_memory
    assert data.files == []
    part = data.subset([3, 1])
    for row, position in enumerate((3, 1)):
        np.testing.assert_array_equal(part[row][0], decoded(contents[position]))
    broken = LabelledImages([contents[0][:50]], np.array([0]), ["a"], name="broken")
    with pytest.raises(UsageError, match=r"every image must be readable, but one of 50 bytes is not"):
        broken.pixels([0])


# ---------------------------------------------------------------------- parquet


def rows(part: str) -> dict[str, list[Any]]:
    count = 12 if part == "train" else 6
    first = 0 if part == "train" else 100
    return {
        "image": [{"bytes": encoded(first + n), "path": f"{n}.jpg"} for n in range(count)],
        "center": [n % 6 for n in range(count)],
        "label": [n % 8 for n in range(count)],
    }


Tables = dict[str, dict[str, list[Any]]]


@pytest.fixture(params=["stand-in", "pyarrow"])
def write_parquet(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Tables], None]:
    """Writes files of columns into the folder data; without pyarrow, a stand-in of the calls that are made."""
    folder = tmp_path / "data"
    folder.mkdir()
    if request.param == "pyarrow":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write(tables: Tables) -> None:
            for name, columns in tables.items():
                parquet.write_table(pyarrow.table(columns), folder / name)

        return write

    class Column:
        def __init__(self, values: list[Any]) -> None:
            self.values = values

        def to_pylist(self) -> list[Any]:
            return self.values

    class Table:
        def __init__(self, columns: dict[str, list[Any]]) -> None:
            self.columns = columns
            self.column_names = list(columns)

        def column(self, name: str) -> Column:
            return Column(self.columns[name])

    stand_in, reader = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    stand_in.ArrowException = type("ArrowException", (Exception,), {})  # type: ignore[attr-defined]
    stand_in.parquet = reader  # type: ignore[attr-defined]
    known: Tables = {}

    def schema(file: Path) -> SimpleNamespace:
        if file.stat().st_size:
            raise stand_in.ArrowException("no footer")  # type: ignore[attr-defined]
        return SimpleNamespace(names=list(known[file.name]))

    reader.read_schema = schema  # type: ignore[attr-defined]
    reader.read_table = lambda file, columns: Table(known[file.name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyarrow", stand_in)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", reader)

    def remember(tables: Tables) -> None:
        known.update(tables)
        for name in tables:
            (folder / name).touch()

    return remember


@pytest.fixture
def parquet_folder(write_parquet: Callable[[Tables], None], tmp_path: Path) -> Path:
    """Two files of training rows and one of test rows."""
    names = {"train-00000-of-00002": ("train", slice(7)), "train-00001-of-00002": ("train", slice(7, None))}
    names |= {"test-00000-of-00001": ("test", slice(None))}
    write_parquet(
        {f"{name}.parquet": {key: v[at] for key, v in rows(part).items()} for name, (part, at) in names.items()}
    )
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_the_parquet_form_of_isic(parquet_folder: Path, inside: bool) -> None:
    sets = FedIsic2019(parquet_folder / "data" if inside else parquet_folder).load()
    assert sets.test is not None
    assert (len(sets.train), len(sets.test)) == (12, 6)
    assert sets.train.columns["center"].tolist() == rows("train")["center"]
    assert sets.train.labels.tolist() == rows("train")["label"]
    assert len(sets.train.class_names) == 9
    np.testing.assert_array_equal(sets.train[8][0], decoded(rows("train")["image"][8]["bytes"]))
    np.testing.assert_array_equal(sets.test[5][0], decoded(rows("test")["image"][5]["bytes"]))
    data = FederatedImages(FedIsic2019(parquet_folder), clients=6, partition=ByColumn("center"), image_size=10)
    assert [sum(counts) for counts in data.describe()["clients"].values()] == [2] * 6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": None}, r"test-0.parquet must have the columns image, label, center, lacks image$"),
        (
            {"label": None, "center": None},
            r"test-0.parquet must have the columns image, label, center, lacks label, cent",
        ),
        ({"image": ["a.jpg"] * 6}, r"column image of .*test-0.parquet must hold the bytes of a picture in every row"),
    ],
)
def test_other_columns_are_told(
    change: dict[str, Any], told: str, write_parquet: Callable[[Tables], None], tmp_path: Path
) -> None:
    columns = {name: values for name, values in (rows("test") | change).items() if values is not None}
    write_parquet({"train-0.parquet": rows("train"), "test-0.parquet": columns})
    with pytest.raises(UsageError, match=told):
        FedIsic2019(tmp_path).load()


def test_a_damaged_parquet_file_is_told(parquet_folder: Path) -> None:
    (parquet_folder / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"train-00001-of-00002.parquet must be a readable parquet file \("):
        FedIsic2019(parquet_folder).load()


def test_parquet_without_pyarrow_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "train-00000-of-00001.parquet").touch()
    with pytest.raises(UsageError, match=r"has neither, and no train-\*.parquet with test-\*.parquet"):
        FedIsic2019(tmp_path).load()
    (tmp_path / "test-00000-of-00001.parquet").touch()
    with pytest.raises(
        UsageError, match=r"parquet files need pyarrow \(pip install fedseca\[parquet\]\), got .*train-"
    ):
        FedIsic2019(tmp_path).load()


# ---------------------------------------------------------------------- digits


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    sets, again = Digits().load(), Digits().load()
    assert sets.test is not None
    assert again.test is not None
    assert len(sets.train) + len(sets.test) == 1797
    assert sets.test.class_counts().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]  # a fifth of each, rounded
    assert (sets.train.provenance, sets.train[0][0].shape) == ("real", (8, 8, 1))
    published = datasets.load_digits()
    mine = np.concatenate([np.asarray(part.pixels(np.arange(len(part)))) for part in (sets.train, sets.test)])[..., 0]
    grey = np.floor(published.images * 255 / 16 + 0.5).astype(np.uint8)
    assert sorted(map(bytes, mine)) == sorted(map(bytes, grey))
    assert mine.max() == 255
    np.testing.assert_array_equal(sets.test.labels, again.test.labels)


def test_digits_without_scikit_learn_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=r"Digits needs scikit-learn \(pip install fedseca\[digits\]\), found none"):
        Digits().load()
