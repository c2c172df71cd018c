"""``finelip stretch``: any layout in, any layout out, and back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finelip.checkpoints.lengths import config_of, shrunk_clip, stretched_clip
from finelip.checkpoints.read import read_clip
from finelip.checkpoints.write import write_clip
from finelip.cli import main
from finelip.finelip import FineLIP
from finelip.positions import shrink, stretch
from finelip.tokenizer import LongTokenizer
from finelip.towers import CLIP_TINY, build_clip
from shared.checkpoints import load_tensors, save_tensors, sha256_of
from shared.errors import UsageError

Small = Callable[..., FineLIP]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A plain CLIP of 77 positions under OpenAI's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = build_clip(CLIP_TINY).state_dict()
    path = tmp_path / "clip.safetensors"
    save_tensors(path, state)
    return path


@given(length=st.integers(4, 90), keep=st.integers(0, 40), ratio=st.integers(1, 9))
def test_every_stretched_table_shrinks_to_the_same_bits(length: int, keep: int, ratio: int) -> None:
    keep = min(keep, length - 2)
    table = torch.randn(length, 3, generator=torch.Generator().manual_seed(length))
    assert torch.equal(shrink(stretch(table, "kps", keep, ratio), keep, ratio), table)


@pytest.mark.parametrize(("keep", "ratio"), [(20, 5), (21, 4), (-1, 1), (247, 1), (20, 0)])
def test_a_table_of_another_length_is_refused(keep: int, ratio: int) -> None:
    with pytest.raises(UsageError, match="keep and ratio must be those that a table was stretched with"):
        shrink(torch.zeros(248, 2), keep, ratio)


@pytest.mark.parametrize("layout", ["openai", "open_clip", "hf"])
def test_there_and_back_over_the_command(
    layout: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long, short = ("long", "short") if layout == "hf" else ("long.safetensors", "short.safetensors")
    there = ["--weights", str(tiny), "--out", str(tmp_path / long), "--layout", layout]
    # The shapes tell the backbone, but not whether it has QuickGELU: clip_tiny has.
    main(["stretch", *there])
    assert "clip_tiny with 248 positions, stretched from 77 by kps" in capsys.readouterr().out
    back = ["--weights", str(tmp_path / long), "--out", str(tmp_path / short), "--layout", layout, "--back"]
    main(["stretch", *back, "true"])
    assert "lost: 171 positions, which stretching gives again bit for bit" in capsys.readouterr().out
    first, again = read_clip(tiny).tensors, read_clip(tmp_path / short).tensors
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor), name
    path = tmp_path / long
    text = (path / "MODEL_CARD.md" if layout == "hf" else path.with_name(f"{long}.MODEL_CARD.md")).read_text()
    assert "- texts: (B, L) int64 ids of CLIP's vocabulary, L up to 248" in text
    assert sha256_of(path / "model.safetensors" if layout == "hf" else path) in text


def test_a_stretched_clip_equals_it_up_to_21_tokens(tiny: Path, tmp_path: Path) -> None:
    read = read_clip(tiny)
    model = stretched_clip(read, config_of(read)[1], keep=20, ratio=8)
    assert model.context_length == 476
    plain = build_clip(CLIP_TINY).eval()
    plain.load_state_dict(load_tensors(tiny, "tiny"))
    ids = LongTokenizer(77)(["a red disc " * 4, "a red disc " * 7]).ids
    assert (ids[1] != 0).sum() == 23
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(plain.encode_text(ids), dim=-1)
        found = model.encode_text(ids).vector
    torch.testing.assert_close(found[0], wanted[0])
    assert not torch.allclose(found[1], wanted[1], atol=1e-4)


def test_what_training_changed_is_told_on_the_way_back(small: Small, tmp_path: Path) -> None:
    model = small(seed=4)
    with torch.no_grad():
        model.positional_embedding_res[21] += 0.5
        model.positional_embedding_res[40] += 0.25  # 20 + 4 * 5: a row that stays, so its neighbours differ
        model.positional_embedding_res[3] += 9  # of the table that is not read there
    write_clip(model, tmp_path / "f.safetensors")
    read = read_clip(tmp_path / "f.safetensors")
    short, lost = shrunk_clip(read, config_of(read)[1])
    assert short.context_length == 77
    assert lost.rows == 171
    assert lost.aggregators == len([n for n in model.state_dict() if n.startswith("cross_net.")])
    # Row 21 itself, and the six rows that would lie between the changed row and its neighbours.
    assert lost.changed == 7
    assert lost.gap == pytest.approx(0.5, abs=1e-5)
    assert torch.equal(short.positional_embedding[25], model.positional_embedding_res[40])
    assert torch.equal(short.positional_embedding[:20], model.positional_embedding[:20])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--by", "linear", "--back", "true"], "--back needs --by kps"),
        (["--back", "true"], "--weights must have the 248 positions of keep 20 and ratio 4, got 77"),
        (["--ratio", "0"], "ratio must be at least 1"),
        (["--keep", "76"], "keep must lie in 0..75"),
        (["--layout", "hf", "--out", "."], "--out must not exist yet"),
        (["--weights", "nowhere.pt"], "--weights must be an existing file"),
        (["--backbone", "ViT-B-61"], "backbone must be a model of open_clip"),
        (["--backbone", "ViT-B-16"], "--weights belongs to another model"),
    ],
)
def test_wrong_input_in_one_sentence(
    words: list[str], sentence: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stretch", "--weights", str(tiny), "--out", str(tmp_path / "o.safetensors"), *words])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
