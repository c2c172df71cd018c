import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from finelip.sources.pairs import PairSource
from finelip.sources.tar_shards import TarShards, expanded
from shared.errors import UsageError

Shades = Callable[[PairSource, str], list[int]]


def write(path: Path, members: dict[str, bytes | str] | list[tuple[str, bytes | str]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as shard:
        for name, value in members.items() if isinstance(members, dict) else members:
            content = value.encode() if isinstance(value, str) else value
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path, picture_bytes: Callable[..., bytes]) -> Path:
    write(
        tmp_path / "s-000.tar",
        {
            "000000.jpg": picture_bytes(10, "JPEG"),
            "000000.txt": "Zero.\n",
            "000000.json": json.dumps({"caption": "not this one"}),
            "000001.txt": "One before its picture, ü.",
            "000001.png": picture_bytes(20),
        },
    )
    write(
        tmp_path / "s-001.tar",
        {
            "a/b.c/k1.WEBP": picture_bytes(30, "WEBP"),
            "a/b.c/k1.json": json.dumps({"caption": " From JSON. ", "width": 8}),
            "only-text.txt": "left out",
            "only-picture.png": picture_bytes(0),
            "empty.png": picture_bytes(0),
            "empty.txt": " \n",
            "null.png": picture_bytes(0),
            "null.json": json.dumps({"caption": None}),
            "k2.left.png": picture_bytes(0),  # its extension is left.png
            "k2.png": picture_bytes(40),
            "k2.jpeg": picture_bytes(0, "JPEG"),  # png goes first
            "k2.txt": "Two.",
        },
    )
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("a{0..2}.tar", ["a0.tar", "a1.tar", "a2.tar"]),
        ("a{9..11}", ["a9", "a10", "a11"]),
        ("a{0..10}", [f"a{number}" for number in range(11)]),
        ("a{009..011}", ["a009", "a010", "a011"]),
        ("{x,y}/{0..1}", ["x/0", "x/1", "y/0", "y/1"]),
        ("a{08..10}::b", ["a08", "a09", "a10", "b"]),
        ("a{b}", ["a{b}"]),
        ("", []),
    ],
)
def test_braces(pattern: str, paths: list[str]) -> None:
    assert expanded(pattern) == paths


def test_a_range_counts_up() -> None:
    with pytest.raises(UsageError, match=r"data.source.shards: a range must count up, got \{3..1\}"):
        expanded("a{3..1}")


def test_samples_are_pictures_with_captions(shards: Path, shades: Shades) -> None:
    source = TarShards(f"{shards}/s-{{000..001}}.tar")
    assert (source.name, source.provenance) == (shards.name, "real")
    pairs = source.pairs("train")
    assert [pair.caption for pair in pairs] == ["Zero.", "One before its picture, ü.", "From JSON.", "Two."]
    assert [pair.name for pair in pairs] == [
        "s-000.tar/000000",
        "s-000.tar/000001",
        "s-001.tar/a/b.c/k1",
        "s-001.tar/k2",
    ]
    assert [pair.image_id for pair in pairs] == [0, 1, 2, 3]
    assert shades(source, "train") == [10, 20, 30, 40]
    assert source.left_out == {"train": 4}
    assert pairs[-1] == pairs[3]
    assert list(pairs[1:3]) == [pairs[1], pairs[2]]
    assert list(pairs[::-2][:1]) == [pairs[3]]
    with pytest.raises(IndexError):
        pairs[4]
    assert [len(source.pairs(split)) for split in ("validation", "test")] == [0, 0]


def test_any_order_and_any_worker(shards: Path, shades: Shades) -> None:
    source = TarShards(f"{shards}/s-001.tar::{shards}/s-000.tar", test=f"{shards}/s-000.tar", name="x")
    assert [source.pairs("train")[index].caption for index in (2, 0)] == ["Zero.", "From JSON."]
    assert shades(source, "test") == [10, 20]
    content = pickle.dumps(source)
    assert b"From JSON" not in content
    copy = pickle.loads(content)
    assert list(copy.pairs("train")) == list(source.pairs("train"))
    assert shades(copy, "train") == [30, 40, 10, 20]


def test_another_key_of_the_json(tmp_path: Path, picture_bytes: Callable[..., bytes]) -> None:
    path = write(tmp_path / "a.tar", {"1.png": picture_bytes(1), "1.json": '{"text": "yes", "caption": "no"}'})
    assert TarShards(str(path), json_key="text").pairs("train")[0].caption == "yes"


def test_a_damaged_picture_is_told_where_it_is_opened(tmp_path: Path, picture_bytes: Callable[..., bytes]) -> None:
    path = write(tmp_path / "a.tar", {"1.png": picture_bytes(1)[:40], "1.txt": "x"})
    source = TarShards(str(path))
    assert len(source.pairs("train")) == 1
    with pytest.raises(OSError, match=r"a.tar/1 cannot be read: "):
        source.picture("train", 0)


def refused(path: Path, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        TarShards(str(path)).pairs("train")


@pytest.mark.parametrize("cut", [1, 512, 700, 1600, -1024, -1])
def test_a_shard_cut_short_is_told_in_one_sentence(cut: int, shards: Path) -> None:
    path = shards / "s-000.tar"
    with tarfile.open(path) as shard:
        last = shard.getmembers()[-1]
    end = last.offset_data + 512 * -(-last.size // 512)
    content = path.read_bytes()[:end] + bytes(1024)
    path.write_bytes(content[:cut] if cut > 0 or cut == -1024 else content[: end - 1])
    refused(path, rf"data.source.shards: every shard must be a whole, uncompressed tar file, {path} is not")


def test_damage_in_the_middle_is_no_end(shards: Path) -> None:
    path = shards / "s-000.tar"
    with tarfile.open(path) as shard:
        third = shard.getmembers()[2].offset
    content = bytearray(path.read_bytes())
    content[third : third + 300] = b"\x07" * 300
    path.write_bytes(content)
    refused(path, rf"{path} is not \(it breaks off at byte {third:,}\)")


def test_bad_shards_are_told_in_one_sentence(tmp_path: Path, picture_bytes: Callable[..., bytes]) -> None:
    path = tmp_path / "a.tar"
    picture = picture_bytes(1)
    refused(path, rf"data.source.shards must be an existing file, got {path}")
    path.write_bytes(b"no tar")
    refused(path, "every shard must be a whole, uncompressed tar file")
    write(path, {"1.png": picture, "1.txt": "x"})
    path.write_bytes(gzip.compress(path.read_bytes()))
    refused(path, "every shard must be a whole, uncompressed tar file")
    refused(write(path, {}), "must hold at least one picture with a caption")
    refused(write(path, {"1.png": picture}), "must hold at least one picture with a caption")
    refused(write(path, [("1.png", picture), ("1.txt", "x"), ("1.TXT", "y")]), "a shard once, .* has 1.TXT twice")
    refused(
        write(path, {"1.png": picture, "1.txt": b"\xff"}), "captions must be text in UTF-8, that of .*a.tar/1 is not"
    )
    refused(write(path, {"1.png": picture, "1.json": "{"}), "captions must be JSON in UTF-8")
    refused(write(path, {"1.png": picture, "1.json": "[]"}), r"data.source.json_key must name a text")
    refused(write(path, {"1.png": picture, "1.json": '{"caption": 3}'}), "'caption' of .*a.tar/1 is '3'")
    with pytest.raises(UsageError, match=r"data.source.shards must name at least one shard, got none"):
        TarShards()
    with pytest.raises(UsageError, match=r"data.source.test must be an existing file"):
        TarShards(str(path), test=str(tmp_path / "none.tar")).pairs("test")
