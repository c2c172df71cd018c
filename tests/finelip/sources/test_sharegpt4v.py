import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finelip.sources.pairs import PairSource
from finelip.sources.sharegpt4v import FILE, ShareGPT4V
from shared.errors import UsageError

PutPicture = Callable[[Path, int], Path]
Shades = Callable[[PairSource, str], list[int]]


def record(picture: str, caption: str, number: str | None = None) -> dict[str, Any]:
    turns = [{"from": "human", "value": "What do you see?\n<image>"}, {"from": "gpt", "value": caption}]
    return {"id": number or Path(picture).stem, "image": picture, "conversations": turns}


def write(root: Path, records: Any, file: str = FILE) -> None:
    (root / file).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, put_picture: PutPicture) -> Path:
    records = []
    for number in range(6):
        name = f"coco/train2017/{number:012d}.jpg"
        put_picture(tmp_path / name, 40 * number)
        records.append(record(name, f"Ein großes Bild {number}.\nIt has a second line. And a third sentence."))
    records.insert(4, record("coco/train2017/000000000003.jpg", "The same picture again. Twice."))
    write(tmp_path, records)
    return tmp_path


def test_the_first_records_are_for_validation(root: Path, shades: Shades) -> None:
    source = ShareGPT4V(root, validation_records=2)
    assert (source.name, source.provenance) == ("sharegpt4v", "real")
    train = source.pairs("train")
    assert [len(source.pairs(split)) for split in ("train", "validation", "test")] == [5, 2, 0]
    assert train[0].name == "coco/train2017/000000000002.jpg"
    assert train[0].caption == "Ein großes Bild 2. It has a second line. And a third sentence."
    assert train[0].short == "Ein großes Bild 2"
    assert train[2].caption == "The same picture again. Twice."
    assert [pair.image_id for pair in train] == [0, 1, 1, 2, 3]
    assert [pair.image_id for pair in source.pairs("validation")] == [0, 1]
    assert shades(source, "train") == [80, 120, 120, 160, 200]
    assert shades(source, "validation") == [0, 40]
    assert train[-1] == train[4]
    assert list(train[1:3]) == [train[1], train[2]]
    assert list(train[::-2][1:]) == [train[2], train[0]]
    with pytest.raises(IndexError):
        train[5]


def test_all_for_validation_or_none(root: Path) -> None:
    assert [len(ShareGPT4V(root).pairs(split)) for split in ("train", "validation")] == [0, 7]
    source = ShareGPT4V(root, validation_records=0)
    assert [len(source.pairs(split)) for split in ("train", "validation")] == [7, 0]
    with pytest.raises(UsageError, match=r"data.source.validation_records must be at least 0, got -1"):
        ShareGPT4V(root, validation_records=-1)


def test_another_list_for_testing(root: Path, shades: Shades) -> None:
    write(root, [record("coco/train2017/000000000005.jpg", "Five.")], "test.json")
    source = ShareGPT4V(root, test="test.json")
    assert [pair.caption for pair in source.pairs("test")] == ["Five."]
    assert shades(source, "test") == [200]


def test_a_worker_gets_the_index_and_reads_for_itself(root: Path, shades: Shades) -> None:
    source = ShareGPT4V(root, validation_records=0)
    expected = list(source.pairs("train"))
    content = pickle.dumps(source)
    assert b"second line" not in content
    copy = pickle.loads(content)
    assert list(copy.pairs("train")) == expected
    assert shades(copy, "train") == shades(source, "train")


@pytest.mark.parametrize(
    "place",
    ["sam/images/sa_11300.jpg", "sam/sa_11300.jpg", "sam/sa_000001/images/sa_11300.jpg", "sam/sa_000002/sa_11300.jpg"],
)
def test_sa1b_is_found_where_people_keep_it(
    place: str, tmp_path: Path, put_picture: PutPicture, shades: Shades
) -> None:
    for folder in ("sa_000000", "sa_000001", "sa_000002", "sa_000010"):
        put_picture(tmp_path / "sam" / folder / "images/sa_1.jpg", 10)
    put_picture(tmp_path / place, 77)
    write(tmp_path, [record("sam/images/sa_11300.jpg", "A street. With trees.")])
    assert shades(ShareGPT4V(tmp_path, validation_records=0), "train") == [77]


def test_a_single_missing_picture_is_told_where_it_is_opened(root: Path) -> None:
    (root / "coco/train2017/000000000003.jpg").unlink()
    source = ShareGPT4V(root, validation_records=0)
    with pytest.raises(FileNotFoundError, match=r"000000000003.jpg is missing"):
        source.picture("train", 3)


def refused(root: Path, records: Any, match: str) -> None:
    write(root, records)
    with pytest.raises(UsageError, match=match):
        ShareGPT4V(root, validation_records=0).pairs("train")


def test_bad_input_is_told_in_one_sentence(tmp_path: Path, put_picture: PutPicture) -> None:
    put_picture(tmp_path / "a.jpg", 0)
    put_picture(tmp_path / "b.jpg", 0)
    good = record("a.jpg", "A. B.")
    with pytest.raises(UsageError, match=rf"data.source.root must be an existing folder, got {tmp_path}/none"):
        ShareGPT4V(tmp_path / "none").pairs("train")
    with pytest.raises(UsageError, match=r"data.source.file must be an existing file"):
        ShareGPT4V(tmp_path).pairs("train")
    with pytest.raises(UsageError, match="split must be one of train, validation, test, got 'dev'"):
        ShareGPT4V(tmp_path).pairs("dev")
    refused(tmp_path, [], "data.source.file must hold at least one record")
    refused(tmp_path, {}, "must be a JSON list of objects")
    refused(tmp_path, [good, {"id": "b", "image": "b.jpg"}], "two turns in 'conversations', record 1 of .* has not")
    refused(tmp_path, [{"id": "b"}], "every record must have a text 'image', record 0 of .* has only 'id'")
    refused(
        tmp_path, [good, record("b.jpg", " \n")], "every 'value' must hold text, that of the second turn of record 1"
    )
    refused(
        tmp_path,
        [record("b.jpg", "x", "b"), good, record("b.jpg", "y", "a")],
        "an 'id' must belong to one picture, records 1 and 2 of .* share theirs",
    )
    refused(
        tmp_path,
        [record("c.jpg", "x"), record("d.jpg", "y")],
        r"data.source.root must hold the pictures, but .*c.jpg is missing and so are 1 more",
    )


def test_what_was_prepared_says_what_it_is(root: Path) -> None:
    (root / "prepared.json").write_text(json.dumps({"preset": "x", "options": {"provenance": "synthetic"}}))
    assert (ShareGPT4V(root).name, ShareGPT4V(root).provenance) == ("x", "synthetic")
    assert ShareGPT4V(root, name="y").name == "y"
    assert ShareGPT4V(root, provenance="derived").provenance == "derived"
    (root / "prepared.json").write_text(json.dumps({"preset": "x", "options": {"provenance": "fake"}}))
    with pytest.raises(UsageError, match="must name real, derived or synthetic, got 'fake'"):
        ShareGPT4V(root)
    (root / "prepared.json").write_text("[]")
    assert ShareGPT4V(root).provenance == "real"
