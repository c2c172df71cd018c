import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.data.heterogeneity import total_variation
from shared.data.labelled_images import LabelledImages
from shared.data.partition import Dirichlet
from shared.data.split_table import FromTable, split_table
from shared.errors import UsageError

LABELS = np.random.default_rng(0).integers(3, size=60)


def images(labels: np.ndarray = LABELS) -> LabelledImages:
    pixels = np.zeros((len(labels), 2, 2), np.uint8)
    return LabelledImages(pixels, labels, ["a,b", "ü", "c"], name="test", columns={})


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    shares = Dirichlet(0.5)(LABELS, 4, rng())
    file = tmp_path / "split.csv"
    file.write_text(split_table(images(), shares, {"more": np.arange(60)}), encoding="utf-8")
    return file


def test_what_is_written_is_read_back(written: Path) -> None:
    expected = Dirichlet(0.5)(LABELS, 4, rng())
    found = FromTable(str(written))(LABELS, 4, rng())
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with written.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["index", "label", "class", "client", "more"]
    assert [row["class"] for row in rows] == [["a,b", "ü", "c"][label] for label in LABELS]
    assert all(int(row["index"]) in expected[int(row["client"])] for row in rows)


def test_the_order_of_the_rows_does_not_matter(written: Path) -> None:
    header, *rows = written.read_text(encoding="utf-8").splitlines()
    before = FromTable(str(written))(LABELS, 4, rng())
    written.write_text("\n".join([header, *rows[::-1], ""]), encoding="utf-8")
    for one, other in zip(FromTable(str(written))(LABELS, 4, rng()), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_of_files_are_kept(tmp_path: Path) -> None:
    data = LabelledImages([tmp_path / "x.png", tmp_path / "y.png"], np.array([1, 0]), ["a", "b"], name="files")
    text = split_table(data, [np.array([1]), np.array([0])])
    assert text == f"index,file,label,class,client\n0,{tmp_path}/x.png,1,b,1\n1,{tmp_path}/y.png,0,a,0\n"


def test_a_table_of_other_images_is_refused(written: Path, tmp_path: Path) -> None:
    partition = FromTable(str(written))
    with pytest.raises(UsageError, match=r"each of the 59 training images once .* has 60 different ones in 60 rows"):
        partition(LABELS[:-1], 4, rng())
    other = LABELS.copy()
    other[5] = (other[5] + 1) % 3
    with pytest.raises(UsageError, match=rf"says label {LABELS[5]} of image 5, which has {other[5]} \(1 of 60 rows"):
        partition(other, 4, rng())
    with pytest.raises(UsageError, match=r"must name clients 0 .. 2 \(data.clients\), .* has 0, 1, 2, 3$"):
        partition(LABELS, 3, rng())
    with pytest.raises(UsageError, match=r"must be an existing file, got .*absent.csv"):
        FromTable(str(tmp_path / "absent.csv"))(LABELS, 4, rng())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("index,label\n0,1\n", "must have the columns index and client, .* has index, label$"),
        ("", "must have the columns index and client, .* has none$"),
        ("index,client\n0,0\n1,x\n", "column client must hold whole numbers, .* has 'x' in row 3"),
        ("index,client\n0,0\n1\n", "column client must hold whole numbers, .* has '' in row 3"),
        ("index,client\n0,0\n0,0\n", "has 1 different ones in 2 rows"),
        ("index,client\n0,0\n1,1\n", "must give every client 2 images .* gives client 0 only 1"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    file = tmp_path / "split.csv"
    file.write_text(content)
    clients = 2 if "gives" in sentence else 1
    with pytest.raises(UsageError, match=sentence):
        FromTable(str(file)).draw(np.zeros(2, np.int64), clients, rng(), {})


@given(st.lists(st.lists(st.integers(0, 20), min_size=3, max_size=3), min_size=1, max_size=6))
def test_total_variation_by_its_definition(rows: list[list[int]]) -> None:
    counts = np.array(rows) + np.eye(len(rows), 3, dtype=int)[:, ::-1] + 1
    pooled = [sum(column) / counts.sum() for column in counts.T.tolist()]
    for row, distance in zip(counts.tolist(), total_variation(counts), strict=True):
        assert distance == pytest.approx(sum(abs(n / sum(row) - p) for n, p in zip(row, pooled, strict=True)) / 2)
    assert total_variation(counts[:1])[0] == 0


def test_a_client_of_one_class_is_as_far_as_can_be() -> None:
    assert total_variation(np.eye(10) * 5) == pytest.approx(np.full(10, 0.9))
