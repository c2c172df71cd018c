from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.data.csv_table import CsvTable
from shared.errors import UsageError

ISIC = """image,MEL,NV,target,center,fold
ISIC_0,1.0,0.0,0,0,train
ISIC_1,0.0,1.0,1,0,train
ISIC_2,0.0,1.0,1,10,train
ISIC_3,1.0,0.0,0,2,test
ISIC_4,1.0,0.0,0,2,valid

"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.fromarray(np.full((4, 6, 3), 40 * number, np.uint8)).save(tmp_path / f"images/ISIC_{number}.jpg")
    (tmp_path / "table.csv").write_text(ISIC)
    return tmp_path


def isic(root: Path, **changed: object) -> CsvTable:
    options = {"label": "target", "split": "fold", "suffix": ".jpg"} | changed
    return CsvTable(root / "table.csv", root / "images", **options)  # type: ignore[arg-type]


def test_the_layout_of_fed_isic(root: Path) -> None:
    sets = isic(root, name="isic").load()
    assert sets.test is not None
    assert sets.validation is not None
    assert sets.train.labels.tolist() == [0, 1, 1]
    assert sets.train.columns["center"].tolist() == [0, 0, 10]
    assert sets.train.columns["center"].dtype == np.int64
    assert sets.train.columns["MEL"].tolist() == ["1.0", "0.0", "0.0"]
    assert sets.test[0][0].max() == 120
    assert len(sets.validation) == 1
    assert sets.train.class_names == ("0", "1")
    declared = isic(root, class_names=["MEL", "NV", "UNK"]).load()
    assert declared.train.class_counts().tolist() == [1, 2, 0]


def test_two_tables_and_class_names_as_text(root: Path) -> None:
    (root / "table.csv").write_text("file,kind\nISIC_0.jpg,river\nISIC_1.jpg,forest\n")
    (root / "test.csv").write_text("file,kind\nISIC_2.jpg,river\n")
    sets = CsvTable(root / "table.csv", root / "images", image="file", label="kind", test_csv=root / "test.csv").load()
    assert sets.test is not None
    assert sets.train.class_names == ("forest", "river")
    assert sets.train.labels.tolist() == [1, 0]
    assert sets.test.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("old", "new", "options", "sentence"),
    [
        ("", "", {"label": "class"}, "data.source.label must name a column of table.csv, got 'class' of image, MEL"),
        ("", "", {"image": "name"}, "data.source.image must name a column of table.csv, got 'name' of"),
        ("", "", {"split": "part"}, "data.source.split must name a column of table.csv, got 'part' of"),
        ("", "", {"class_names": ["a"]}, r"be one of a or a number in 0..0, table.csv holds '1' in row 3"),
        ("ISIC_3", "ISIC_9", {}, r"data.source.csv: every image must exist, table.csv names .*ISIC_9.jpg in row 5"),
        ("0,2,test", "5,2,test", {}, "must be one of 0, 1 or a number in 0..1, table.csv holds '5' in row 5"),
        ("0,0,train", "2,0,train", {}, "every class must have an image .*, table.csv has none of class 0"),
        ("2,test", "2,odd", {}, "must name a column of train, .*, table.csv holds 'odd' in row 5"),
        ("2,test", "2", {}, "every row must have the 6 fields of the header, .* has 5 in row 5"),
        (ISIC[32:], "", {}, "must have at least one row below the header, .*table.csv has none"),
        (ISIC, "", {}, "must be a CSV file in UTF-8 with a header, got .*table.csv"),
        ("", "", {"test_csv": "table.csv"}, "test_csv must be left out if column 'fold' of table.csv already marks"),
    ],
)
def test_bad_tables_are_told_in_one_sentence(
    root: Path, old: str, new: str, options: dict[str, object], sentence: str
) -> None:
    (root / "table.csv").write_text(ISIC.replace(old, new) if old else ISIC)
    with pytest.raises(UsageError, match=sentence):
        isic(root, **options).load()


def test_absent_places(root: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.csv must be an existing file, got .*absent.csv"):
        CsvTable(root / "absent.csv", root).load()
    with pytest.raises(UsageError, match=r"data.source.root must be an existing folder, got .*absent"):
        CsvTable(root / "table.csv", root / "absent").load()
    with pytest.raises(UsageError, match=r"data.source.test_root must be an existing folder, got .*absent"):
        isic(root, split=None, test_csv=root / "table.csv", test_root=root / "absent").load()
