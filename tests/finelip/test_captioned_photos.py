import importlib.util
import io
import pickle
import re
from hashlib import sha256
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from finelip.captioned_photos import FOLDER, CaptionedPhotos, photographs
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
SHIPPED = Path(str(files("finelip").joinpath(*FOLDER.split("/"))))


def _words(text: str) -> int:
    return len(text.split())


def test_what_there_is() -> None:
    source = CaptionedPhotos()
    assert (source.name, source.provenance) == ("captioned-photos", "real")
    assert [len(source.pairs(split)) for split in ("train", "validation", "test")] == [70, 0, 25]
    whole = CaptionedPhotos(crops=False)
    assert [len(whole.pairs(split)) for split in ("train", "validation", "test")] == [14, 0, 5]
    for split in ("train", "test"):
        assert [pair.image_id for pair in source.pairs(split)] == list(range(len(source.pairs(split))))
        assert source.pairs(split)[: len(whole.pairs(split))] == whole.pairs(split)
    with pytest.raises(UsageError, match=r"split must be one of train, validation, test, got 'val'"):
        source.pairs("val")


def test_no_photograph_is_in_both_parts() -> None:
    parts = [{pair.name.partition("[")[0] for pair in CaptionedPhotos().pairs(split)} for split in ("train", "test")]
    assert [len(part) for part in parts] == [14, 5]
    assert not parts[0] & parts[1]


def test_long_captions_have_their_length() -> None:
    texts = [photo.long for photo in photographs()]
    tokens = LongTokenizer(248)(texts)
    assert not tokens.truncated.any()
    assert tokens.lengths.min() > 77
    assert tokens.lengths.min() >= 110
    assert tokens.lengths.max() <= 230
    assert all(90 <= _words(text) <= 160 for text in texts)
    assert len({tuple(row[77:].tolist()) for row in tokens.ids}) == len(texts) == 19


def test_short_captions_and_sentences_have_theirs() -> None:
    for photo in photographs():
        assert 8 <= _words(photo.short) <= 15, photo.file
        assert len(photo.regions) == 4, photo.file
        assert all(15 <= _words(region.caption) <= 40 for region in photo.regions), photo.file
        for sentence in (photo.short, *(region.caption for region in photo.regions)):
            assert re.fullmatch(r"[A-Z][^.?!]+\.", sentence), sentence


def test_captions_are_distinct_and_begin_differently() -> None:
    every = [pair.caption for split in ("train", "test") for pair in CaptionedPhotos().pairs(split)]
    every += [photo.short for photo in photographs()]
    assert len(set(every)) == len(every) == 95 + 19
    assert len({" ".join(photo.long.split()[:2]).lower() for photo in photographs()}) == 19


def test_no_caption_names_a_file() -> None:
    for photo in photographs():
        texts = " ".join([photo.long, photo.short, *(region.caption for region in photo.regions)]).lower()
        for name in (photo.file, photo.source, Path(photo.source).name):
            assert name.lower() not in texts
        assert not re.search(r"\w_\w|\.(jpe?g|png)\b", texts)


def test_boxes_are_parts_of_their_pictures() -> None:
    for photo in photographs():
        with Image.open(SHIPPED / photo.file) as picture:
            width, height = picture.size
        for left, top, right, bottom in (region.box for region in photo.regions):
            assert 0 <= left < right <= width, photo.file
            assert 0 <= top < bottom <= height, photo.file
            assert min(right - left, bottom - top) >= 25, photo.file
            assert (right - left) * (bottom - top) < 0.6 * width * height, photo.file
        assert len({region.box for region in photo.regions}) == 4


def test_crops_show_their_boxes() -> None:
    source = CaptionedPhotos()
    for split in ("train", "test"):
        pairs = source.pairs(split)
        whole = {
            pair.name: np.asarray(source.picture(split, i)) for i, pair in enumerate(pairs) if "[" not in pair.name
        }
        for i, pair in enumerate(pairs):
            picture = source.picture(split, i)
            assert picture.mode == "RGB"
            name, _, box = pair.name.partition("[")
            if box:
                left, top, right, bottom = map(int, box.rstrip("]").split(","))
                assert (np.asarray(picture) == whole[name][top:bottom, left:right]).all()


def test_sizes() -> None:
    sides = {}
    for photo in photographs():
        with Image.open(SHIPPED / photo.file) as picture:
            sides[photo.file] = max(picture.size)
    assert sides.pop("microaneurysms.jpg") == 102  # smaller at its origin
    assert set(sides.values()) == {320}
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_000_000


def test_every_file_is_the_published_one() -> None:
    text = (SHIPPED.parent / "DATA_LICENSES.md").read_text(encoding="utf-8")
    listed = dict(line.split("  ")[::-1] for line in re.findall(r"^[0-9a-f]{64}  \S+$", text, re.MULTILINE))
    assert listed == {file.name: sha256(file.read_bytes()).hexdigest() for file in SHIPPED.iterdir()}
    assert {photo.file for photo in photographs()} | {"captions.json"} == set(listed)
    assert all(f"| `{photo.file}` |" in text for photo in photographs())


def test_an_incomplete_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finelip.captioned_photos.files", lambda package: tmp_path)
    with pytest.raises(
        UsageError, match=rf"package finelip must hold {FOLDER}/captions.json, but it is missing: install"
    ):
        photographs.__wrapped__()


def test_it_can_be_sent_to_a_worker() -> None:
    source = pickle.loads(pickle.dumps(CaptionedPhotos(crops=False)))
    assert source.picture("test", 0).size == (320, 320)


def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "build_captioned_photos", REPOSITORY / "tools/build_captioned_photos.py"
    )
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_shipped_photographs_can_be_rebuilt() -> None:
    tool = _builder()
    rebuilt = 0
    for photo in photographs():
        package, _, rest = photo.source.partition("/")
        found = find_spec(package)
        if found is None or not found.submodule_search_locations:
            continue  # scikit-image is not among the tools of development; scikit-learn is
        content = tool.photograph(Path(found.submodule_search_locations[0], *rest.split("/")))
        with Image.open(io.BytesIO(content)) as ours, Image.open(SHIPPED / photo.file) as shipped:
            assert ours.size == shipped.size
            # Encoders of JPEG may differ a little.
            assert np.abs(np.asarray(ours).astype(int) - np.asarray(shipped)).mean() < 1
        rebuilt += 1
    assert rebuilt >= 2


def test_grey_pictures_are_stored_with_one_channel(tmp_path: Path) -> None:
    tool = _builder()
    for mode, expected in (("RGB", "L"), ("RGBA", "L"), ("L", "L")):
        Image.new(mode, (500, 250), "white").save(tmp_path / "a.png")
        with Image.open(io.BytesIO(tool.photograph(tmp_path / "a.png"))) as picture:
            assert (picture.mode, picture.size) == (expected, (320, 160))
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    with Image.open(io.BytesIO(tool.photograph(tmp_path / "a.png"))) as picture:
        assert (picture.mode, picture.size) == ("RGB", (40, 20))
