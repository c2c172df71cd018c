from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.errors import UsageError
from shared.prepare import claim, prepare, write_images, write_npz

SEEN: list[tuple[str, int]] = []


def first(out: str, items: int = 3) -> None:
    """Do the first thing: it is short.

    Args:
        out: Folder to write.
        items: How many.
    """
    SEEN.append((out, items))


def second(root: str, out: str) -> None:
    """Do the second thing."""


PRESETS = {"second": second, "first": first}


def test_the_verb_alone_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["prepare"], ["prepare", "--help"]):
        prepare("program", PRESETS, words)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("usage: program prepare --preset NAME")
        assert lines[5:7] == ["  first   Do the first thing: it is short.", "  second  Do the second thing."]


def test_a_preset_gets_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    SEEN.clear()
    prepare("program", PRESETS, ["prepare", "--out", "a", "--preset", "first"])
    prepare("program", PRESETS, ["prepare", "--preset=first", "--items", "5", "--out=b"])
    assert SEEN == [("a", 3), ("b", 5)]
    with pytest.raises(SystemExit):
        prepare("program", PRESETS, ["prepare", "--preset", "first", "--help"])
    told = capsys.readouterr().out
    assert told.startswith("usage: program prepare --preset first")
    assert "How many. (type: int, default: 3)" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "x"], r"--preset must name what to prepare, got none; choose from first, second"),
        (["--preset", "frist"], r"--preset must name what to prepare, got 'frist'; did you mean first\?"),
        (["--preset", "first", "--otu", "x"], r"unknown option otu; did you mean out\?"),
        (["--preset", "first"], r"--out is required"),
        (["--preset", "second", "--out", "x"], r"--root is required"),
    ],
)
def test_wrong_words_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        prepare("program", PRESETS, ["prepare", *words])


def test_a_folder_belongs_to_one_preset_and_its_options(tmp_path: Path) -> None:
    folder = claim(tmp_path / "new", "first", items=3, name=("a", "b"))
    (folder / "work").touch()
    assert claim(tmp_path / "new", "first", items=3, name=("a", "b")) == folder
    for preset, items in (("first", 4), ("second", 3)):
        with pytest.raises(UsageError, match=r"--out must be a new folder, or one of the same preset and options"):
            claim(folder, preset, items=items, name=("a", "b"))
    (tmp_path / "old").mkdir()
    assert claim(tmp_path / "old", "first").is_dir()
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name in ("file", "full"):
        with pytest.raises(UsageError, match=r"--out must be a new or empty folder, got .*"):
            claim(tmp_path / name, "first")


def test_pictures_are_written_once_and_whole(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(256, size=(4, 5, 6, 3), dtype=np.uint8)
    paths = [tmp_path / "deep" / f"{n}.png" for n in range(4)]
    asked: list[int] = []

    def pixels(position: int) -> np.ndarray:
        asked.append(position)
        if position == 2 and len(asked) == 3:
            raise KeyboardInterrupt
        return pictures[position]

    with pytest.raises(KeyboardInterrupt):
        write_images(paths, pixels, "test")
    assert [path.is_file() for path in paths] == [True, True, False, False]
    assert write_images(paths, pixels, "test") == 2
    assert asked == [0, 1, 2, 2, 3]
    assert sorted(tmp_path.rglob("*.*")) == paths
    for path, picture in zip(paths, pictures, strict=True):
        with Image.open(path) as read:
            np.testing.assert_array_equal(np.asarray(read), picture)


def test_an_archive_is_written_once(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    write_npz(file, x=np.arange(3))
    write_npz(file, x=np.arange(4))
    with np.load(file) as archive:
        assert archive["x"].tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
