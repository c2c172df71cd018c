import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from finelip.captioned_photos import CaptionedPhotos
from finelip.prepare import PRESETS, run
from finelip.prepared_files import write_files
from finelip.set_summary import summarised, summary_table
from finelip.sources.docci import Docci
from finelip.sources.pairs import SPLITS, Pair, PairSource
from finelip.sources.sharegpt4v import ShareGPT4V
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

LAYOUTS: tuple[Literal["docci", "sharegpt4v"], ...] = ("docci", "sharegpt4v")


class Squares:
    """Pictures of one colour; two captions of each training picture; the third of the test pictures is unreadable."""

    name = "squares"
    provenance: Literal["synthetic"] = "synthetic"

    def pairs(self, split: str) -> Sequence[Pair]:
        count = {"train": 6, "validation": 2, "test": 4}[split]
        per_picture = 2 if split == "train" else 1
        words = [f"{split} {index}." + " and one more square" * (30 * index) for index in range(count)]
        return [Pair(f"{split}/{i // per_picture}", text, None, i // per_picture) for i, text in enumerate(words)]

    def picture(self, split: str, index: int) -> Image.Image:
        if split == "test" and index == 2:
            raise OSError("the third one\nis burnt")
        return Image.new("L" if index else "RGB", (5 + index, 4), index + 1)


def read_back(folder: Path, layout: str, source: PairSource) -> PairSource:
    if layout == "docci":
        return Docci(folder)
    return ShareGPT4V(folder, "captions.json", validation_records=len(source.pairs("validation")), test="test.json")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_photographs_are_read_back_as_they_were(
    layout: Literal["docci", "sharegpt4v"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # the second finds all done
        run(["prepare", "--preset", "captioned-photos", "--out", str(out), "--layout", layout])
    source = CaptionedPhotos()
    read = read_back(out, layout, source)
    assert (read.name, read.provenance) == ("captioned-photos", "real")
    for split in SPLITS:
        ours, theirs = source.pairs(split), read.pairs(split)
        assert [pair.caption for pair in theirs] == [pair.caption for pair in ours]
        assert [pair.image_id for pair in theirs] == [pair.image_id for pair in ours]
        for index in (0, len(ours) - 1) if ours else ():
            assert (np.asarray(read.picture(split, index)) == np.asarray(source.picture(split, index))).all()
    printed = capsys.readouterr().out
    assert "captioned-photos (real data); read by" in printed
    assert f"--data.source.root {out}" in printed
    assert ("--data.source.validation_records 0 --data.source.test test.json" in printed) == (layout == "sharegpt4v")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_captions_share_their_picture(layout: Literal["docci", "sharegpt4v"], tmp_path: Path) -> None:
    class Readable(Squares):
        def picture(self, split: str, index: int) -> Image.Image:
            return Image.new("RGB", (5, 4), (index // 2, 0, 0))

    source = Readable()
    (tmp_path / "prepared.json").write_text('{"preset": "x", "options": {"provenance": "synthetic"}}')
    write_files(source, tmp_path, layout)
    assert len(list((tmp_path / "images").iterdir())) == 3 + 2 + 4
    read = read_back(tmp_path, layout, source)
    assert read.provenance == "synthetic"
    for split in SPLITS:
        assert [pair[1::2] for pair in read.pairs(split)] == [pair[1::2] for pair in source.pairs(split)]
    assert [read.picture("train", index).getpixel((0, 0)) for index in (1, 2)] == [(0, 0, 0), (1, 0, 0)]
    with pytest.raises(UsageError, match=r"--layout must be docci or sharegpt4v, got 'x'"):
        write_files(source, tmp_path, "x")  # type: ignore[arg-type]


def test_an_interrupted_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="burnt"):
        write_files(Squares(), tmp_path, "docci")
    assert not (tmp_path / "docci_descriptions.jsonlines").exists()
    opened = []
    before = Squares.picture

    def picture(self: Squares, split: str, index: int) -> Image.Image:
        opened.append((split, index))
        return before(self, split, 1 if (split, index) == ("test", 2) else index)

    monkeypatch.setattr(Squares, "picture", picture)
    write_files(Squares(), tmp_path, "docci")
    assert opened == [("test", 2), ("test", 3)]
    assert sum(len(Docci(tmp_path).pairs(split)) for split in SPLITS) == 12


def test_late_detail_is_read_back(tmp_path: Path) -> None:
    source = pytest.importorskip("finelip.late_detail.source").LateDetail(8, 4, 4)
    counts = ["--pairs", "8", "--validation_pairs", "4", "--test_pairs", "4"]
    for layout in LAYOUTS:
        out = tmp_path / layout
        run(["prepare", "--preset", "late-detail", "--out", str(out), "--layout", layout, *counts])
        read = read_back(out, layout, source)
        assert read.provenance == "synthetic"
        for split in SPLITS:
            assert [pair.caption for pair in read.pairs(split)] == [pair.caption for pair in source.pairs(split)]
            for index in range(len(source.pairs(split))):
                assert (np.asarray(read.picture(split, index)) == np.asarray(source.picture(split, index))).all()


def test_another_set_does_not_go_into_the_same_folder(tmp_path: Path) -> None:
    words = ["prepare", "--preset", "captioned-photos", "--out", str(tmp_path / "out"), "--crops", "false"]
    run(words)
    with pytest.raises(UsageError, match="same preset and options"):
        run([*words, "--layout", "sharegpt4v"])
    with pytest.raises(UsageError, match=r"did you mean captioned-photos"):
        run(["prepare", "--preset", "captioned-photo", "--out", str(tmp_path)])


# ---------------------------------------------------------------------- counting


def test_the_summary_counts_what_is_there() -> None:
    source = Squares()
    summary = summarised(source)
    assert list(summary) == list(SPLITS)
    for split in SPLITS:
        texts = [pair.caption for pair in source.pairs(split)]
        lengths = sorted(LongTokenizer(2000)(texts).lengths.tolist())
        part = summary[split]
        assert part.pairs == len(texts)
        assert part.lengths["mean"] == pytest.approx(sum(lengths) / len(lengths))
        assert part.lengths["median"] == (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2
        place = 0.95 * (len(lengths) - 1)  # between the neighbours, as NumPy does by default
        low = lengths[int(place)]
        high = lengths[min(int(place) + 1, len(lengths) - 1)]
        assert part.lengths["p95"] == pytest.approx(low + (place - int(place)) * (high - low))
        assert part.lengths["max"] == lengths[-1]
        assert part.over_short == sum(length > 77 for length in lengths) / len(lengths)
        assert part.over_long == sum(length > 248 for length in lengths) / len(lengths)
    assert [summary[split].pictures for split in SPLITS] == [3, 2, 4]
    assert summary["train"].over_short > summary["train"].over_long > 0
    assert [summary[split].unreadable for split in SPLITS] == [{}, {}, {"test/2": "the third one is burnt"}]
    assert summarised(source, open_pictures=False)["test"].unreadable is None


def test_workers_find_the_same() -> None:
    assert summarised(Squares(), workers=1) == summarised(Squares())


def test_the_table() -> None:
    lines = summary_table(summarised(CaptionedPhotos(crops=False), open_pictures=False)).splitlines()
    assert [line.split()[0] for line in lines] == ["split", "train", "test"]
    assert lines[1].split()[1:3] == ["14", "14"]
    assert lines[2].split()[-6:] == ["100.0", "%", "0.0", "%", "not", "opened"]


def test_a_set_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        (tmp_path / "in/image").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in/caption").mkdir(exist_ok=True)
        (tmp_path / f"in/caption/{number}.txt").write_text(f"Number {number}.\nMore.")
        Image.new("RGB", (8, 8)).save(tmp_path / f"in/image/{number}.jpg")
    content = (tmp_path / "in/image/1.jpg").read_bytes()
    (tmp_path / "in/image/1.jpg").write_bytes(content[:300])
    words = ["prepare", "--preset", "urban1k", "--root", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    run(words)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["name"], summary["provenance"], list(summary["splits"])) == ("urban1k", "real", ["test"])
    test = summary["splits"]["test"]
    assert (test["pairs"], test["pictures"], list(test["unreadable"])) == (3, 3, ["image/1.jpg"])
    printed = capsys.readouterr().out
    assert "test: image/1.jpg: " in printed
    assert "urban1k (real data)" in printed
    with pytest.raises(UsageError, match="--workers must be at least 0, got -1"):
        run([*words, "--workers", "-1"])
    with pytest.raises(UsageError, match=r"--root must be an existing folder"):
        run(["prepare", "--preset", "urban1k", "--root", str(tmp_path / "none"), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_left_out_samples_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    with tarfile.open(tmp_path / "a0.tar", "w") as shard:
        for name, content in (("1.png", picture.getvalue()), ("1.txt", b"One."), ("2.txt", b"Two.")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    words = [
        "prepare",
        "--preset",
        "tar-shards",
        "--shards",
        f"{tmp_path}/a{{0..0}}.tar",
        "--out",
        str(tmp_path / "out"),
    ]
    run(words)
    assert "train: 1 samples have no picture or no caption and are left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/summary.json").read_text())["left_out"]["train"] == 1


@pytest.mark.data
def test_the_real_pack_is_checked(
    data_pack: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = data_pack("captioned_photos")
    run(["prepare", "--preset", "captioned-photos-pack", "--root", str(root), "--out", str(tmp_path / "out")])
    splits = json.loads((tmp_path / "out/summary.json").read_text())["splits"]
    assert {split: part["pairs"] for split, part in splits.items()} == {"train": 33, "test": 16}
    assert all(
        part["over_short"] == 1 and part["over_long"] == 0 and not part["unreadable"] for part in splits.values()
    )


def test_every_preset_tells_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    run(["prepare"])
    listed = capsys.readouterr().out
    for preset in PRESETS:
        assert f"\n  {preset} " in listed
        with pytest.raises(SystemExit) as ended:
            run(["prepare", "--preset", preset, "--help"])
        assert ended.value.code == 0
        assert "--out" in capsys.readouterr().out
