"""The shipped CLIP: its file, what the file does not hold, and that it knows scenes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finelip.clip_tiny import LIMIT_BYTES, SHIPPED, export_tiny, read_tiny, untrained_rows
from finelip.finelip import FineLIP
from finelip.late_detail.captions import generator_vocabulary, short_caption
from finelip.late_detail.rendering import render
from finelip.late_detail.scenes import ALL_LOOKS, altered, draw_scene
from finelip.module import FineLIPModule
from finelip.tokenizer import EOS, SOT, LongTokenizer
from finelip.towers import CLIP_TINY
from shared.checkpoints import sha256_of
from shared.errors import UsageError


def test_the_file_is_the_one_that_its_card_describes() -> None:
    assert SHIPPED.stat().st_size <= LIMIT_BYTES
    assert sha256_of(SHIPPED) in (SHIPPED.parent / "README.md").read_text()


def test_rows_of_known_tokens_are_stored_and_the_others_come_from_the_seed() -> None:
    table = read_tiny().tensors["token_embedding.weight"]
    fresh = untrained_rows()
    assert table.shape == fresh.shape == (49408, 128)
    kept = torch.tensor(generator_vocabulary())
    others = torch.ones(49408, dtype=torch.bool)
    others[kept] = False
    assert torch.equal(table[others], fresh[others])
    assert (table[kept] != fresh[kept]).any(1).all()
    assert {SOT, EOS} <= set(kept.tolist())
    # The stream of the generator must never change, or what users get would.
    torch.testing.assert_close(fresh[0, :3], torch.tensor(FIRST_VALUES), rtol=0, atol=1e-7)
    assert abs(fresh.std().item() - 0.02) < 1e-4


FIRST_VALUES = 0.02 * np.random.RandomState(73).standard_normal(3).astype(np.float32)


def test_writing_and_reading(tmp_path: Path) -> None:
    config = CLIP_TINY | {"text_cfg": CLIP_TINY["text_cfg"] | {"vocab_size": 3}}
    model = FineLIP(config, stretch_by="none", keep=0, refinement="none")
    with torch.no_grad():
        model.positional_embedding_res.add_(1)
    kept = [5, SOT, EOS]
    size = export_tiny(model, kept, tmp_path / "tiny.safetensors", {"step": "7"})
    assert size == (tmp_path / "tiny.safetensors").stat().st_size
    read = read_tiny(tmp_path / "tiny.safetensors")
    for ours, theirs in (
        (read.tensors["token_embedding.weight"][kept], model.token_embedding.weight),
        (read.tensors["positional_embedding"], model.positional_embedding_res),
    ):
        assert torch.equal(ours, theirs.detach().half().float())
    with pytest.raises(ValueError, match="the weights of clip_tiny must fit into 3000000 bytes"):
        export_tiny(FineLIP(CLIP_TINY, stretch_by="none", keep=0, refinement="none"), kept, tmp_path / "x", {})


def test_init_tiny(capsys: pytest.CaptureFixture[str]) -> None:
    module = FineLIPModule("clip_tiny", init="tiny")
    assert "initial weights: tiny (" in capsys.readouterr().out
    told = module.describe()
    assert told["pretrained"] == "self"
    assert told["weights_sha256"] == sha256_of(SHIPPED)
    assert len(module.model.positional_embedding) == 248
    with pytest.raises(UsageError, match=r"model.init tiny goes with model.backbone clip_tiny only, got ViT-B-32"):
        FineLIPModule("ViT-B-32-quickgelu", init="tiny")


@torch.no_grad()
def test_it_finds_scenes_by_short_captions() -> None:
    """64 scenes of one to four objects with combinations never trained, and a twin of each: far above chance."""
    model = FineLIPModule("clip_tiny", init="tiny").model.eval()
    rng = np.random.default_rng(12)
    scenes = []
    for i in range(64):
        scene = draw_scene(rng, 1 + i % 4, ALL_LOOKS)
        scenes += [scene, altered(rng, scene, ALL_LOOKS)]
    ids, lengths, _ = LongTokenizer(77)([short_caption(rng, s, range(len(s.objects))) for s in scenes])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)))
    pictures = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).float() / 255
    tokens = model.text_tokens(ids)  # 248 stretched slots
    texts = F.normalize(tokens[torch.arange(len(ids)), lengths - 1], dim=-1)
    images = F.normalize(model.image_tokens((pictures - mean) / std)[:, 0], dim=-1)
    found = ((images[::2] @ texts[::2].T).argmax(0) == torch.arange(64)).float().mean()
    own, other = (images * texts).sum(1), (images[torch.arange(128) ^ 1] * texts).sum(1)
    assert found > 0.3  # chance 1/64
    assert (own > other).float().mean() > 0.55  # chance 1/2
