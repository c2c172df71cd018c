"""Tables and folders of one's own, and the pack of photographs with long captions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finelip.sources.caption_csv import CaptionCsv
from finelip.sources.caption_folder import CaptionFolder
from finelip.sources.captioned_photos_pack import CaptionedPhotosPack
from finelip.sources.pairs import PairSource
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

PutPicture = Callable[[Path, int], Path]
Shades = Callable[[PairSource, str], list[int]]


def sizes(source: PairSource) -> list[int]:
    return [len(source.pairs(split)) for split in ("train", "validation", "test")]


def refused(source: PairSource, match: str, split: str = "train") -> None:
    with pytest.raises(UsageError, match=match):
        source.pairs(split)


# ---------------------------------------------------------------------- tables


@pytest.fixture
def table(tmp_path: Path, put_picture: PutPicture) -> Callable[..., Path]:
    for number in range(4):
        put_picture(tmp_path / f"p/{number}.png", 50 * number)

    def write(text: str, name: str = "a.csv") -> Path:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("sep", ["\t", ","])
def test_a_table_of_open_clip(sep: str, table: Callable[..., Path], shades: Shades) -> None:
    rows = [["p/1.png", "one"], ["p/0.png", '"zero, with a ""comma"""'], ["p/1.png", "one again"]]
    path = table("\n".join(sep.join(row) for row in [["filepath", "title"], *rows]) + "\n")
    source = CaptionCsv(path)
    assert (source.name, source.provenance, sizes(source)) == ("a", "real", [3, 0, 0])
    assert [pair.caption for pair in source.pairs("train")] == ["one", 'zero, with a "comma"', "one again"]
    assert [pair.image_id for pair in source.pairs("train")] == [0, 1, 0]
    assert shades(source, "train") == [50, 0, 50]


def test_a_table_with_splits_and_other_names(table: Callable[..., Path], tmp_path: Path, shades: Shades) -> None:
    path = table("fold;text;file\nTest;t;3.png\nval;v;2.png\ntrain;x;1.png\n")
    source = CaptionCsv(path, tmp_path / "p", image="file", caption="text", split="fold", sep=";", provenance="derived")
    assert (sizes(source), source.provenance) == ([1, 1, 1], "derived")
    assert shades(source, "test") == [150]
    by_name = CaptionCsv(table("filepath,title,split\np/3.png,t,test\np/1.png,x,train\n"))
    assert sizes(by_name) == [1, 0, 1]


def test_a_table_for_each_split(table: Callable[..., Path], tmp_path: Path) -> None:
    train, other = table("filepath,title\np/0.png,a\n"), table("filepath,title\np/1.png,b\np/2.png,c\n", "b.csv")
    assert sizes(CaptionCsv(train, test_csv=other)) == [1, 0, 2]
    assert sizes(CaptionCsv(train, validation_csv=other)) == [1, 2, 0]
    absolute = table(f"filepath,title\n{tmp_path}/p/1.png,b\n", "c.csv")
    assert sizes(CaptionCsv(absolute, root=tmp_path / "p")) == [1, 0, 0]
    both = CaptionCsv(table("filepath,title,split\np/0.png,a,test\n"), test_csv=other)
    refused(both, r"data.source.test_csv must be left out if .*a.csv already marks test rows", "test")


def test_a_broken_table_is_told_in_one_sentence(table: Callable[..., Path], tmp_path: Path) -> None:
    head = "filepath,title\n"
    for text, match in {
        "": r"data.source.csv must be a table in UTF-8 with a header, got .*, which is empty",
        "file,title\n": r"data.source.image must name a column of .*, got 'filepath' of file, title",
        "filepath,text\n": r"data.source.caption must name a column of .*, got 'title' of filepath, text",
        head: r"data.source.root must hold at least one caption",
        head + "p/0.png,a, and more\n": r"every row must have the 2 fields of the header, line 2 of .* has more",
        head + "p/0.png\n": r"data.source.csv: every record must have a text 'title', line 2 of .* has None",
        head + 'p/0.png," "\n': r"data.source.csv: every 'title' must hold text, that of line 2",
        head + 'p/0.png,"a\n': r"data.source.csv must be a table in UTF-8 with a header, got .*unexpected end",
        head + "q/0.png,a\nq/1.png,b\n": r"must hold the pictures, but .*q/0.png is missing and so are 1 more",
        "filepath,title,split\np/0.png,a,dev\n": r"data.source.split must .*, line 2 of .* holds 'dev'",
    }.items():
        refused(CaptionCsv(table(text)), match)
    (tmp_path / "a.csv").write_bytes(b"filepath,title\np/0.png,\xff\n")
    refused(CaptionCsv(tmp_path / "a.csv"), "must be a table in UTF-8")
    refused(CaptionCsv(table(head), split="fold"), r"data.source.split must name a column of .*, got 'fold'")
    refused(CaptionCsv(tmp_path / "none.csv"), r"data.source.csv must be an existing file")
    with pytest.raises(UsageError, match=r"data.source.sep must be one character, got '::'"):
        CaptionCsv(tmp_path / "a.csv", sep="::")


# ---------------------------------------------------------------------- folders


@pytest.fixture
def folder(tmp_path: Path, put_picture: PutPicture) -> Callable[[str, int, str | None], None]:
    def put(name: str, shade: int, text: str | None) -> None:
        path = put_picture(tmp_path / name, shade)
        if text is not None:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")

    return put


def test_a_folder_without_splits(folder: Any, tmp_path: Path, shades: Shades) -> None:
    folder("b/2.JPG", 20, "two\nlines\n")
    folder("a.webp", 10, "one")
    folder(".hidden/x.png", 30, None)
    (tmp_path / "readme.txt").write_text("not a caption")
    source = CaptionFolder(tmp_path)
    assert (source.name, sizes(source)) == (tmp_path.name, [2, 0, 0])
    assert [pair[:2] for pair in source.pairs("train")] == [("a.webp", "one"), ("b/2.JPG", "two\nlines")]
    assert shades(source, "train") == [10, 20]
    assert sizes(CaptionFolder(tmp_path, split="test")) == [0, 0, 2]
    with pytest.raises(UsageError, match="split must be one of"):
        CaptionFolder(tmp_path, split="dev")


def test_a_folder_with_splits(folder: Any, tmp_path: Path) -> None:
    folder("train/1.png", 1, "one")
    folder("val/2.png", 2, "two")
    folder("Test/deep/3.png", 3, "three")
    folder("other/4.png", 4, None)  # belongs to no split
    source = CaptionFolder(tmp_path)
    assert sizes(source) == [1, 1, 1]
    assert source.pairs("test")[0].name == "Test/deep/3.png"


def test_shares_of_a_folder_are_held_out(folder: Any, tmp_path: Path) -> None:
    for number in range(20):
        folder(f"{number:02d}.png", number, f"text {number}")
    source = CaptionFolder(tmp_path, validation=0.2, test=0.1)
    assert sizes(source) == [14, 4, 2]
    names = {split: {pair.name for pair in source.pairs(split)} for split in ("train", "validation", "test")}
    assert len(set.union(*names.values())) == 20
    again = CaptionFolder(tmp_path, validation=0.2, test=0.1)
    assert [pair.name for pair in again.pairs("test")] == [pair.name for pair in source.pairs("test")]
    # Another share for validation leaves the test pictures as they are.
    assert {pair.name for pair in CaptionFolder(tmp_path, validation=0.5, test=0.1).pairs("test")} == names["test"]
    assert {pair.name for pair in CaptionFolder(tmp_path, test=0.1, split_seed=1).pairs("test")} != names["test"]
    folder("train/a.png", 1, "one")
    refused(CaptionFolder(tmp_path, test=0.1), "must be 0 where there are folders of splits, .* has train")
    for options, match in (
        ({"test": 1.0}, r"data.source.test must lie in \[0, 1\), got 1.0"),
        ({"test": 0.5, "validation": 0.5}, "must leave pictures to train on, got 0.5 and 0.5"),
        ({"test": 0.5, "split": "test"}, "data.source.split must be train where shares are held out, got test"),
    ):
        with pytest.raises(UsageError, match=match):
            CaptionFolder(tmp_path, **options)


def test_a_broken_folder_is_told_in_one_sentence(folder: Any, tmp_path: Path) -> None:
    refused(CaptionFolder(tmp_path), "must hold at least one caption")
    refused(CaptionFolder(tmp_path, test=0.5), "must hold at least one caption")
    folder("a.png", 1, None)
    refused(CaptionFolder(tmp_path), "must hold a text for every picture, .*a.txt is missing")
    folder("a.png", 1, " \n")
    refused(CaptionFolder(tmp_path), "every caption must hold text, .*a.txt is empty")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    refused(CaptionFolder(tmp_path), "every caption must be text in UTF-8, .*a.txt is not")
    folder("a.jpg", 1, "x")
    refused(CaptionFolder(tmp_path), "one picture per text, .*a.png is a second one")
    refused(CaptionFolder(tmp_path / "none"), r"data.source.root must be an existing folder")


# ---------------------------------------------------------------------- the pack


def pack_line(number: int, split: str) -> dict[str, Any]:
    short = [f"{number} short {k}." for k in range(5)]
    return {"image": f"images/{number}.jpg", "split": split, "long_caption": f"{number} long.", "captions": short}


@pytest.fixture
def pack(tmp_path: Path, put_picture: PutPicture) -> Path:
    for number in (1, 2, 3):
        put_picture(tmp_path / f"images/{number}.jpg", number)
    text = [json.dumps(pack_line(number, split)) for number, split in ((1, "test"), (2, "train"), (3, "train"))]
    (tmp_path / "captions.jsonl").write_text("\n".join(text))
    return tmp_path


def test_the_captions_of_the_pack(pack: Path, shades: Shades) -> None:
    long = CaptionedPhotosPack(pack)
    assert (long.name, long.provenance, sizes(long)) == ("captioned-photos-pack", "real", [2, 0, 1])
    assert [pair[1:] for pair in long.pairs("train")] == [("2 long.", "2 short 0.", 0), ("3 long.", "3 short 0.", 1)]
    short = CaptionedPhotosPack(pack, captions="short")
    assert sizes(short) == [10, 0, 5]
    assert [pair.image_id for pair in short.pairs("train")] == [0] * 5 + [1] * 5
    assert shades(short, "train") == [2] * 5 + [3] * 5
    joined = CaptionedPhotosPack(pack, captions="joined").pairs("test")
    assert [pair.caption for pair in joined] == ["1 short 0. 1 short 1. 1 short 2. 1 short 3. 1 short 4."]
    with pytest.raises(UsageError, match=r"data.source.captions must be long, short or joined, got 'all'"):
        CaptionedPhotosPack(pack, captions="all")  # type: ignore[arg-type]


def test_a_broken_pack_is_told_in_one_sentence(pack: Path) -> None:
    good = pack_line(1, "train")
    for lines, match in (
        ([good, good], "every picture must be listed once, .* has images/1.jpg twice"),
        ([good, good | {"split": "test"}], "every picture must be listed once"),
        ([good | {"split": "dev"}], "'split' must be one of train, .* has 'dev'"),
        ([good | {"captions": []}], "every record must have a list 'captions', line 1"),
        ([good | {"captions": ["x", ""]}], "every 'caption' must hold text"),
        ([good | {"long_caption": ""}], "every 'long_caption' must hold text"),
        ([{"image": "x"}], "every record must have a text 'split'"),
        ([], "must hold at least one caption"),
        ([pack_line(7, "train")], "must hold the pictures, but .*images/7.jpg is missing"),
    ):
        (pack / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
        refused(CaptionedPhotosPack(pack), match)


@pytest.mark.data
def test_the_real_pack(data_pack: Callable[[str], Path]) -> None:
    root = data_pack("captioned_photos")
    source = CaptionedPhotosPack(root)
    assert sizes(source) == [33, 0, 16]
    lengths = LongTokenizer(248)([pair.caption for split in ("train", "test") for pair in source.pairs(split)]).lengths
    assert (lengths.min(), lengths.max(), lengths.median()) == (107, 130, 118)  # as its README says
    joined = CaptionedPhotosPack(root, captions="joined")
    lengths = LongTokenizer(248)([pair.caption for split in ("train", "test") for pair in joined.pairs(split)]).lengths
    assert (lengths.min(), lengths.max()) == (50, 91)
    for split in ("train", "test"):
        for index in range(len(source.pairs(split))):
            picture = source.picture(split, index)
            assert picture.mode == "RGB"
            assert max(picture.size) == 336
            assert np.asarray(picture).std() > 1
