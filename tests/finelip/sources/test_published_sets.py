"""Small copies of public sets in their published layouts, and each way in which one can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finelip.sources.coco import CocoCaptions
from finelip.sources.dci import Dci, LongDci
from finelip.sources.docci import Docci
from finelip.sources.flickr30k import Flickr30k
from finelip.sources.iiw import Iiw
from finelip.sources.pairs import PairSource
from finelip.sources.urban1k import Urban1k
from shared.errors import UsageError

PutPicture = Callable[[Path, int], Path]
Shades = Callable[[PairSource, str], list[int]]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def lines(path: Path, values: list[Any]) -> Path:
    return write(path, "".join(json.dumps(value) + "\n" for value in values))


def sizes(source: PairSource) -> list[int]:
    return [len(source.pairs(split)) for split in ("train", "validation", "test")]


def captions(source: PairSource, split: str = "test") -> list[str]:
    return [pair.caption for pair in source.pairs(split)]


def ids(source: PairSource, split: str = "test") -> list[int]:
    return [pair.image_id for pair in source.pairs(split)]


def refused(source: PairSource, match: str, split: str = "test") -> None:
    with pytest.raises(UsageError, match=match):
        source.pairs(split)


# ---------------------------------------------------------------------- Urban1k


@pytest.fixture
def urban1k(tmp_path: Path, put_picture: PutPicture) -> Path:
    for number in (1, 2, 10, 100):
        put_picture(tmp_path / f"Urban1k/image/{number}.jpg", 2 * number)
        write(tmp_path / f"Urban1k/caption/{number}.txt", f"Street {number}. It is long.\nA second line.\n")
    return tmp_path


def test_urban1k_counts_as_people_do(urban1k: Path, shades: Shades) -> None:
    for root in (urban1k, urban1k / "Urban1k"):
        source = Urban1k(root)
        assert (source.name, source.provenance, sizes(source)) == ("urban1k", "real", [0, 0, 4])
        assert captions(source) == [f"Street {number}. It is long." for number in (1, 2, 10, 100)]
        assert shades(source, "test") == [2, 4, 20, 200]
    assert captions(Urban1k(urban1k, whole=True))[0] == "Street 1. It is long.\nA second line."


def test_urban1k_must_be_whole(urban1k: Path, put_picture: PutPicture) -> None:
    folder = urban1k / "Urban1k"
    write(folder / "caption/10.txt", "\nOnly below.")
    refused(Urban1k(urban1k), "every first line of a caption must hold text, that of .*10.txt is empty")
    assert captions(Urban1k(urban1k, whole=True))[2] == "Only below."
    (folder / "caption/10.txt").write_bytes(b"\xff\xfe\xff")
    refused(Urban1k(urban1k), "every caption must be text in UTF-8, .*10.txt is not")
    (folder / "caption/10.txt").unlink()
    refused(Urban1k(urban1k), "has no caption of 10")
    (folder / "image/10.jpg").rename(folder / "image/1.png")
    refused(Urban1k(urban1k), "one picture per number, .* has 1.jpg and 1.png")
    (folder / "image/1.png").unlink()
    (folder / "image/2.jpg").unlink()
    refused(Urban1k(urban1k), "has no picture of 2")
    refused(Urban1k(folder / "image"), "data.source.root must be an existing folder, got .*caption")
    refused(Urban1k(urban1k / "none"), "data.source.root must be an existing folder, got .*none")
    for name in ("image", "caption"):
        for file in (folder / name).iterdir():
            file.unlink()
    refused(Urban1k(urban1k), "must hold at least one caption")


# ---------------------------------------------------------------------- DOCCI


def docci_line(split: str, number: int) -> dict[str, Any]:
    name = f"{split}_{number:05d}"
    return {"example_id": name, "split": split, "image_file": f"{name}.jpg", "description": f"Description of {name}."}


@pytest.fixture
def docci(tmp_path: Path, put_picture: PutPicture) -> Path:
    names = [(split, number) for split in ("test", "train", "qual_dev", "qual_test") for number in (1, 0)]
    lines(tmp_path / "docci_descriptions.jsonlines", [docci_line(*name) for name in names])
    for shade, (split, number) in enumerate(names):
        folder = "test_images" if (split, number) == ("test", 0) else "images"
        put_picture(tmp_path / folder / f"{split}_{number:05d}.jpg", 10 * shade)
    return tmp_path


def test_docci_has_three_splits(docci: Path, shades: Shades) -> None:
    source = Docci(docci)
    assert (source.name, source.provenance, sizes(source)) == ("docci", "real", [2, 2, 2])
    assert captions(source) == ["Description of test_00001.", "Description of test_00000."]
    assert shades(source, "test") == [0, 10]  # the second from test_images/
    assert shades(source, "train") == [20, 30]
    assert captions(source, "validation") == ["Description of qual_dev_00001.", "Description of qual_dev_00000."]


def test_docci_must_be_as_published(docci: Path) -> None:
    file = docci / "docci_descriptions.jsonlines"
    good = docci_line("test", 0)
    lines(file, [good, good | {"image_file": "x.jpg"}])
    refused(Docci(docci), "every 'example_id' must occur once, line 2 of .* repeats test_00000")
    lines(file, [good | {"split": "dev"}])
    refused(Docci(docci), "every split must be one of train, test, qual_dev, qual_test, .* has 'dev'")
    lines(file, [{key: value for key, value in good.items() if key != "description"}])
    refused(Docci(docci), "every record must have a text 'description', line 1")
    lines(file, [good | {"description": ""}])
    refused(Docci(docci), "every 'description' must hold text")
    write(file, "{")
    refused(Docci(docci), "every line must be JSON in UTF-8, line 1")
    write(file, "")
    refused(Docci(docci), "must hold at least one caption")
    lines(file, [docci_line("test", 77)])
    refused(Docci(docci), r"must hold the pictures, but .*images/test_00077.jpg is missing$")
    file.unlink()
    refused(Docci(docci), "must be an existing file")


# ---------------------------------------------------------------------- DCI


def annotation(picture: str, short: str, extra: str) -> dict[str, Any]:
    return {"image": picture, "short_caption": short, "extra_caption": extra, "mask_data": {}, "mask_keys": []}


@pytest.fixture
def dci(tmp_path: Path, put_picture: PutPicture) -> Path:
    folder = tmp_path / "densely_captioned_images"
    texts = {
        "30": ("Short 30.", "Extra 30. "),
        "4": ("Short 4.", ""),
        "5": (" Short 5.", "Extra 5."),
        "6": ("", "Extra 6."),
    }
    for number, (short, extra) in texts.items():
        write(folder / f"annotations/{number}-data.json", annotation(f"sa_{number}.jpg", short, extra))
        put_picture(folder / f"photos/sa_{number}.jpg", int(number))
    write(
        folder / "splits.json",
        {"train": ["6-data.json", "5-data.json"], "valid": ["4-data.json"], "test": ["30-data.json"]},
    )
    return tmp_path


def test_dci_follows_its_splits(dci: Path, shades: Shades) -> None:
    for root in (dci, dci / "densely_captioned_images"):
        source = Dci(root)
        assert (source.name, sizes(source)) == ("dci", [2, 1, 1])
        assert captions(source) == ["Short 30.\nExtra 30."]
        assert captions(source, "train") == ["Extra 6.", "Short 5.\nExtra 5."]
        assert [pair.short for pair in source.pairs("train")] == [None, "Short 5."]
        assert shades(source, "train") == [6, 5]
    assert captions(Dci(dci, captions="extra"), "train") == ["Extra 6.", "Extra 5."]
    assert captions(Dci(dci, captions="short")) == ["Short 30."]
    refused(Dci(dci, captions="extra"), "data.source.captions: .*4-data.json has none", "validation")
    with pytest.raises(UsageError, match=r"data.source.captions must be joined, extra or short, got 'long'"):
        Dci(dci, captions="long")  # type: ignore[arg-type]


def test_long_dci_has_every_extra_caption(dci: Path, shades: Shades) -> None:
    source = LongDci(dci)
    assert (source.name, sizes(source)) == ("long-dci", [0, 0, 3])
    assert captions(source) == ["Extra 30.", "Extra 5.", "Extra 6."]  # sorted as text, as TULIP does
    assert shades(source, "test") == [30, 5, 6]


def test_long_dci_from_its_table(dci: Path, put_picture: PutPicture, shades: Shades) -> None:
    put_picture(dci / "elsewhere/a.jpg", 99)
    write(
        dci / "dci_long.csv", 'filepath\ttitle\nsa_5.jpg\t"A ""quoted"" text, with a\nbreak"\nelsewhere/a.jpg\tPlain.\n'
    )
    source = LongDci(dci, table="dci_long.csv")
    assert captions(source) == ['A "quoted" text, with a\nbreak', "Plain."]
    assert shades(source, "test") == [5, 99]
    write(dci / "dci_long.csv", "filepath\ttitle\nsa_5.jpg\tA.\nsa_5.jpg\tB.\n")
    refused(LongDci(dci, table="dci_long.csv"), "every picture must be listed once, .* has sa_5.jpg twice")
    write(dci / "dci_long.csv", "filepath,title\nsa_5.jpg,A.\n")
    refused(LongDci(dci, table="dci_long.csv"), "data.source.table: every record must have a text 'filepath', row 2")
    (dci / "dci_long.csv").write_bytes(b"filepath\ttitle\nsa_5.jpg\t\xff\n")
    refused(LongDci(dci, table="dci_long.csv"), "data.source.table must be tab-separated text in UTF-8, got .*dci_long")
    refused(LongDci(dci, table="none.csv"), "data.source.table must be an existing file")


def test_dci_must_be_as_published(dci: Path) -> None:
    folder = dci / "densely_captioned_images"
    write(folder / "annotations/30-data.json", {"image": "sa_30.jpg", "short_caption": "x"})
    for source in (Dci(dci), LongDci(dci)):
        refused(source, "every annotation must have a text 'extra_caption', .*30-data.json has None")
    write(folder / "annotations/30-data.json", "[]")
    refused(Dci(dci), "every annotation must be a JSON object")
    write(folder / "splits.json", {"test": ["5-data.json", "5-data.json"]})
    refused(Dci(dci), "every picture must be listed once, .*splits.json has sa_5.jpg twice")
    write(folder / "splits.json", {"test": ["7-data.json"]})
    refused(Dci(dci), "^data.source.root must be an existing file, got .*7-data.json$")
    write(folder / "splits.json", ["5-data.json"])
    refused(Dci(dci), "splits.json must list the annotations of each split")
    (folder / "splits.json").unlink()
    refused(Dci(dci), "must be an existing file, got .*splits.json")
    for file in (folder / "annotations").iterdir():
        file.unlink()
    refused(LongDci(dci), "must hold at least one caption")


# ---------------------------------------------------------------------- ImageInWords


@pytest.fixture
def iiw(tmp_path: Path, put_picture: PutPicture) -> Path:
    lines(tmp_path / "DOCCI_Test/data.jsonl", [{"image": "test_00001", "IIW": "One.", "DOCCI": "Other."}])
    lines(tmp_path / "IIW-400/data.jsonl", [{"image/key": "aar_test_04600", "IIW": "Two.\n\nMore."}])
    lines(tmp_path / "DCI_TEST/data.jsonl", [{"image": "sa_3.jpg", "ex_id": "3-data.json", "IIW": "Three."}])
    put_picture(tmp_path / "docci/train_00001.jpg", 10)  # renamed upstream
    put_picture(tmp_path / "docci_aar/aar_test_04600.jpg", 20)
    put_picture(tmp_path / "dci/sa_3.jpg", 30)
    return tmp_path


def test_iiw_joins_its_parts(iiw: Path, shades: Shades) -> None:
    source = Iiw(iiw)
    assert (source.name, sizes(source)) == ("iiw", [0, 0, 3])
    assert captions(source) == ["One.", "Two.\n\nMore.", "Three."]
    assert [pair.name for pair in source.pairs("test")] == [
        "docci/test_00001.jpg",
        "docci_aar/aar_test_04600.jpg",
        "dci/sa_3.jpg",
    ]
    assert shades(source, "test") == [10, 20, 30]
    assert captions(Iiw(iiw, parts=["dci", "docci"])) == ["Three.", "One."]


def test_iiw_with_annotations_elsewhere(iiw: Path, tmp_path: Path) -> None:
    for folder in ("DOCCI_Test", "IIW-400", "DCI_TEST"):
        (tmp_path / "datasets").mkdir(exist_ok=True)
        (iiw / folder).rename(tmp_path / "datasets" / folder)
    assert len(captions(Iiw(iiw, annotations=tmp_path / "datasets"))) == 3
    refused(Iiw(iiw), "data.source.annotations must be an existing file, got .*DOCCI_Test/data.jsonl")


def test_iiw_must_be_as_published(iiw: Path) -> None:
    with pytest.raises(UsageError, match=r"data.source.parts must be some of docci, iiw-400, dci, got x"):
        Iiw(iiw, parts=["x"])
    with pytest.raises(UsageError, match=r"data.source.parts must be some of docci, iiw-400, dci, got none"):
        Iiw(iiw, parts=[])
    lines(iiw / "DOCCI_Test/data.jsonl", [{"IIW": "x"}])
    refused(Iiw(iiw), "every record must have a text 'image/key', line 1")
    lines(iiw / "DOCCI_Test/data.jsonl", [{"image": "test_00001", "IIW": "x"}, {"image": "test_00001.jpg", "IIW": "y"}])
    refused(Iiw(iiw), "every picture must be listed once, .* has docci/test_00001.jpg twice")
    lines(iiw / "DOCCI_Test/data.jsonl", [{"image": "test_00001", "IIW": " "}])
    refused(Iiw(iiw), "every 'IIW' must hold text")


# ---------------------------------------------------------------------- COCO


@pytest.fixture
def coco(tmp_path: Path, put_picture: PutPicture) -> Path:
    numbers = [900, 3, 42]
    for number in numbers:
        put_picture(tmp_path / f"val2017/{number:012d}.jpg", number % 256)
    texts = [(number, f"{number} says {k}") for k in range(6) for number in numbers]
    value = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers],
        "annotations": [
            {"id": 100 - place, "image_id": number, "caption": text} for place, (number, text) in enumerate(texts)
        ],
    }
    write(tmp_path / "annotations/captions_val2017.json", value)
    return tmp_path


def test_coco_takes_five_captions_by_ascending_id(coco: Path, shades: Shades) -> None:
    source = CocoCaptions(coco)
    assert (source.name, sizes(source)) == ("coco", [0, 0, 15])
    assert captions(source) == [f"{number} says {k}" for number in (3, 42, 900) for k in range(5)]
    assert ids(source) == [0] * 5 + [1] * 5 + [2] * 5
    assert shades(source, "test")[::5] == [3, 42, 900 % 256]
    assert captions(CocoCaptions(coco, captions=1)) == ["3 says 0", "42 says 0", "900 says 0"]


def test_coco_finds_its_training_part_and_pictures_elsewhere(coco: Path, shades: Shades) -> None:
    (coco / "images").mkdir()
    (coco / "val2017").rename(coco / "images/val2017")
    assert shades(CocoCaptions(coco), "test")[::5] == [3, 42, 132]
    (coco / "images/val2017").rename(coco / "train2017")
    (coco / "annotations/captions_val2017.json").rename(coco / "annotations/captions_train2017.json")
    assert len(CocoCaptions(coco).pairs("train")) == 15


def test_coco_must_be_as_published(coco: Path) -> None:
    file = coco / "annotations/captions_val2017.json"
    value = json.loads(file.read_text())

    def changed(match: str, **parts: Any) -> None:
        write(file, value | parts)
        refused(CocoCaptions(coco), match)

    images, annotations = value["images"], value["annotations"]
    changed("every id must occur once, picture 3 of .* repeats 900", images=[*images, images[0]])
    changed("every id must occur once, annotation 18 of .* repeats 100", annotations=[*annotations, annotations[0]])
    changed("annotation 0 of .* names 7", annotations=[{"id": 1, "image_id": 7, "caption": "x"}])
    changed("picture 0 of .* has None", images=[{"file_name": "x.jpg"}])
    changed("must hold a list of objects 'annotations'", annotations=None)
    changed("picture 900 of .* has 4", annotations=[a for a in annotations if a["id"] not in (100, 97)])
    changed("every 'caption' must hold text", annotations=[annotations[0] | {"caption": "\n"}])
    with pytest.raises(UsageError, match=r"data.source.captions must be at least 1, got 0"):
        CocoCaptions(coco, captions=0)
    file.unlink()
    refused(CocoCaptions(coco), "must be an existing file")


# ---------------------------------------------------------------------- Flickr30k


@pytest.fixture
def flickr30k(tmp_path: Path, put_picture: PutPicture) -> Path:
    text = "".join(f"{name}.jpg#{k}\t{name} caption {k} .\n" for name in ("99", "1000") for k in range(5))
    write(tmp_path / "results_20130124.token", text)
    put_picture(tmp_path / "flickr30k-images/99.jpg", 99)
    put_picture(tmp_path / "flickr30k-images/1000.jpg", 100)
    images = [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": f"{name} raw {k}"} for k in range(6)]}
        for name, split in (("1000", "test"), ("99", "train"))
    ]
    write(tmp_path / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return tmp_path


def test_flickr30k_says_which_of_the_two_it_is(flickr30k: Path, shades: Shades) -> None:
    every = Flickr30k(flickr30k)
    assert (every.name, sizes(every)) == ("flickr30k-all", [0, 0, 10])
    assert captions(every)[4:6] == ["99 caption 4 .", "1000 caption 0 ."]
    assert ids(every) == [0] * 5 + [1] * 5
    assert shades(every, "test") == [99] * 5 + [100] * 5
    split = Flickr30k(flickr30k, karpathy="dataset_flickr30k.json")
    assert (split.name, sizes(split)) == ("flickr30k-karpathy", [5, 0, 5])
    assert captions(split) == [f"1000 raw {k}" for k in range(5)]
    (flickr30k / "flickr30k-images").rename(flickr30k / "Images")
    assert shades(Flickr30k(flickr30k), "test")[0] == 99


def test_flickr30k_must_be_as_published(flickr30k: Path) -> None:
    file = flickr30k / "results_20130124.token"
    good = file.read_text().splitlines()

    def changed(match: str, *wrong: str) -> None:
        write(file, "\n".join(wrong))
        refused(Flickr30k(flickr30k), match)

    changed("five captions, the last of .* has fewer", *good[:9])
    changed("k = 0 to 4 in turn, line 2 of .* is '99.jpg#2", good[0], *good[2:])
    changed("line 3 of", *good[:2], "98.jpg#2\tx", *good[3:])
    changed("line 1 of", "99.jpg#0 no tab")
    changed("line 1 of", "99.jpg#0\t ")
    changed("every picture must be listed once, .* has 99.jpg twice", *good, *good[:5])
    changed("must hold at least one caption", "")
    file.write_bytes(b"99.jpg#0\t\xff\n")
    refused(Flickr30k(flickr30k), "data.source.root: results_20130124.token must be text in UTF-8, .* is not")
    write(flickr30k / "dataset_flickr30k.json", {"images": [{"filename": "1.jpg", "split": "test", "sentences": []}]})
    refused(Flickr30k(flickr30k, "dataset_flickr30k.json"), "every picture must have five 'sentences', picture 0")
    write(flickr30k / "dataset_flickr30k.json", {"images": [7]})
    refused(
        Flickr30k(flickr30k, "dataset_flickr30k.json"),
        "must have a text 'filename', picture 0 .* has no object but '7'",
    )
    write(flickr30k / "dataset_flickr30k.json", [])
    refused(Flickr30k(flickr30k, "dataset_flickr30k.json"), "data.source.karpathy must hold a list 'images'")
    refused(Flickr30k(flickr30k, "none.json"), "data.source.karpathy must be an existing file")
