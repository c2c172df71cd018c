"""Match maps: the local score without remainder, at the right words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from finelip.checkpoints.write import write_clip
from finelip.cli import main
from finelip.finelip import FineLIP
from finelip.matching import Word, contrasts, cosines, most_telling, relevance, word_maps, words_of
from finelip.tokenizer import LongTokenizer
from shared.errors import UsageError

Small = Callable[..., FineLIP]
TEXT = "A microaneurysm, red, beside 2 blue bars; red again."


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refinement": "none"},
        {"refinement": "image", "reduction": "sum"},
        {"refinement": "text", "slope": 1.0, "direction": "t2i"},
        {"direction": "i2t", "global_tokens": "none"},
        {"global_tokens": "image"},
    ],
)
def test_the_parts_sum_to_the_local_score(options: dict[str, Any], small: Small) -> None:
    model = small(seed=3, **options)
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    ids, lengths, _ = LongTokenizer(248)(TEXT)
    parts = relevance(model, image, ids[0], int(lengths))
    assert parts.shape == (int(lengths), 17)
    with torch.no_grad():
        seen, read = model.encode_image(image[None]), model.encode_text(ids, lengths)
        wanted = model.local_scores(seen.tokens, read.tokens, read.mask)
    torch.testing.assert_close(parts.sum(), wanted.squeeze())


def test_without_refinement_every_match_stays_where_it_is(small: Small) -> None:
    """Raw tokens: the part of a slot and a patch is that of the matches between just these two."""
    model = small(refinement="none", slope=1.0)
    image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids, lengths, _ = LongTokenizer(248)("a red disc")
    length = int(lengths)
    similarity = cosines(model, image, ids[0], length)
    wanted = torch.zeros_like(similarity)
    for slot in range(length):
        wanted[slot, similarity[slot].argmax()] += similarity[slot].max() / length
    for patch in range(17):
        wanted[similarity[:, patch].argmax(), patch] += similarity[:, patch].max() / 17
    torch.testing.assert_close(relevance(model, image, ids[0], length), wanted)


def test_words_of_a_text() -> None:
    ids, lengths, _ = LongTokenizer(248)(TEXT)
    words = words_of(ids[0], int(lengths))
    texts = ["a", "microaneurysm", ",", "red", ",", "beside", "2", "blue", "bars", ";", "red", "again", "."]
    assert [word.text for word in words] == texts
    slots = [slot for word in words for slot in range(word.slots.start, word.slots.stop)]
    assert slots == list(range(1, int(lengths) - 1))
    assert not Word(",", slice(0, 1)).readable
    parts = torch.zeros(int(lengths), 5)
    for position, value in ((3, 1.0), (10, 2.0), (7, 1.5), (2, 9.0)):
        parts[words[position].slots.start, 1] = value
    weights = [float(parts[word.slots, 1:].sum()) for word in words]
    assert most_telling(weights, words, 2) == [7, 10]  # no comma, and "red" where it is strongest
    maps = word_maps(parts, [words[7], words[10]])
    assert maps[:, 0, 0].tolist() == [1.5, 2.0]
    assert maps.shape == (2, 2, 2)
    assert contrasts(maps)[:, 0, 0].tolist() == [-0.25, 0.25]


def test_the_verb_draws_a_picture_and_a_page(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = FineLIP("clip_tiny").eval()
    write_clip(clip, tmp_path / "f.safetensors")
    pixels = np.random.default_rng(0).integers(256, size=(60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    words = ["explain", "--picture", str(tmp_path / "p.png"), "--weights", str(tmp_path / "f.safetensors")]
    kinds = (["--by", "sentence"], ["--kind", "score"], ["--kind", "cosine", "--words", '["red", "blue"]'])
    for more in ([], *kinds):
        main([*words, "--text", TEXT + " <b>", "--out", str(tmp_path / "out"), *more])
        with Image.open(tmp_path / "out/match_maps.png") as drawn:
            assert drawn.width > 300
        page = (tmp_path / "out/report.html").read_text()
        assert "local score" in page
        assert "<b>" not in page
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*words[:1], "--picture", str(tmp_path / "f.safetensors"), *words[3:], "--text", "a"])
    assert "--picture must be a picture that can be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--text", TEXT, "--words", "[bleu]", "--out", str(tmp_path / "out")])
    assert "--words must be words of the text, got 'bleu'; did you mean blue" in capsys.readouterr().err
    with pytest.raises(UsageError, match="match maps need image sets that stand alone"):
        relevance(small(refinement="select_aggregate_image"), torch.zeros(3, 32, 32), torch.zeros(3), 3)
