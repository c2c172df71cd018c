"""``finelip export``: files that other programs read, and what they compute."""

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from finelip.checkpoints.write import write_clip
from finelip.cli import main
from finelip.finelip import FineLIP
from finelip.onnx_towers import ImageTower, TextTower, examples, parity, write_onnx
from finelip.tokenizer import EOS, LongTokenizer
from finelip.trained import fingerprint, trained_model
from shared.errors import RunError, UsageError

Small = Callable[..., FineLIP]
TEXTS = ["wow!?! it's 3.5 metres, naïve café — ok", "a red disc " * 120, "Two   Crescents\nin a row's end 2024"]


@pytest.fixture
def trained(small: Small, tmp_path: Path) -> tuple[FineLIP, Path]:
    """A model whose trained positions differ from the frozen ones, and its file."""
    model = small(seed=8)
    with torch.no_grad():
        model.positional_embedding_res += torch.randn(
            model.positional_embedding_res.shape, generator=torch.Generator().manual_seed(1)
        )
    write_clip(model, tmp_path / "trained.safetensors")
    return model, tmp_path / "trained.safetensors"


def export(path: Path, out: Path, layout: str) -> None:
    main(["export", "--weights", str(path), "--out", str(out), "--layout", layout])


Loaded = Callable[[Path], dict[str, Any]]


def digests(folder: Path) -> list[str]:
    """SHA-256 of every exported file in a folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.endswith("MODEL_CARD.md")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_own_layout_is_the_same_model(trained: tuple[FineLIP, Path], tmp_path: Path, loaded: Loaded) -> None:
    model, path = trained
    export(path, tmp_path / "again.safetensors", "finelip")
    again = trained_model(str(tmp_path / "again.safetensors"))
    assert fingerprint(again.model) == fingerprint(model)
    card = tmp_path / "again.safetensors.MODEL_CARD.md"
    assert f"| `{again.sha256}` |" in card.read_text()
    assert "Not of a run of `finelip fit`" in card.read_text()
    assert fingerprint(loaded(card)["model"]) == fingerprint(model)


def test_the_card_of_a_plain_clip_loads_it(trained: tuple[FineLIP, Path], tmp_path: Path, loaded: Loaded) -> None:
    export(trained[1], tmp_path / "out" / "plain.safetensors", "open_clip")
    model = loaded(tmp_path / "out" / "plain.safetensors.MODEL_CARD.md")["model"]
    assert model.context_length == 248
    assert model.refinement == "none"


def test_hugging_face_with_tokenizer(trained: tuple[FineLIP, Path], tmp_path: Path, loaded: Loaded) -> None:
    model, path = trained
    export(path, tmp_path / "hf", "hf")
    card = tmp_path / "hf" / "MODEL_CARD.md"
    assert all(digest in card.read_text() for digest in digests(tmp_path / "hf"))
    names = loaded(card)
    theirs, tokenizer = names["model"].eval(), names["tokenizer"]
    assert isinstance(theirs, CLIPModel)
    assert tokenizer.model_max_length == 248
    ids, lengths, _ = LongTokenizer(248)(TEXTS)
    found = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(found[row, :length], ids[row, :length])
    with torch.no_grad():
        vectors = F.normalize(theirs.get_text_features(ids).pooler_output, dim=-1)
        torch.testing.assert_close(vectors, model.encode_text(ids).vector, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["sdxl", "sdxl_2"])
def test_text_encoder_of_pipelines(layout: str, trained: tuple[FineLIP, Path], tmp_path: Path, loaded: Loaded) -> None:
    model, path = trained
    export(path, tmp_path / "te", layout)
    card = tmp_path / "te" / "MODEL_CARD.md"
    assert all(digest in card.read_text() for digest in digests(tmp_path / "te"))
    assert loaded(card)["tokenizer"].model_max_length == 248
    number, reader = ("", CLIPTextModel) if layout == "sdxl" else ("_2", CLIPTextModelWithProjection)
    theirs, told = reader.from_pretrained(tmp_path / f"te/text_encoder{number}", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    config = json.loads((tmp_path / f"te/text_encoder{number}/config.json").read_text())
    assert config["architectures"] == [reader.__name__]
    assert config["max_position_embeddings"] == 248
    assert CLIPTokenizer.from_pretrained(tmp_path / f"te/tokenizer{number}").model_max_length == 248
    ids, lengths, _ = LongTokenizer(248)(TEXTS)
    positions = torch.cat([model.positional_embedding[:20], model.positional_embedding_res[20:]])
    with torch.no_grad():
        mask = model.causal_mask
        wanted = model.ln_final(model.transformer(model.token_embedding(ids) + positions, attn_mask=mask))
        found = theirs(ids)
        torch.testing.assert_close(found.last_hidden_state, wanted, atol=1e-5, rtol=1e-4)
        if layout == "sdxl_2":
            torch.testing.assert_close(
                F.normalize(found.text_embeds, dim=-1), model.encode_text(ids, lengths).vector, atol=1e-5, rtol=1e-4
            )


def test_the_towers_that_are_traced_are_the_model(trained: tuple[FineLIP, Path]) -> None:
    model, _ = trained
    images, ids = examples(model, 3, 9)
    assert (ids == EOS).sum(1).tolist() == [1, 1, 1]
    with torch.no_grad():
        for found, wanted in zip(ImageTower(model)(images), model.encode_image(images), strict=True):
            assert torch.equal(found, wanted)
        for found, wanted in zip(TextTower(model)(ids), model.encode_text(ids), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.skipif(find_spec("onnx") is None or find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("refinement", ["both", "none"])
def test_onnx_graphs_of_any_batch_and_length(refinement: str, small: Small, tmp_path: Path) -> None:
    gaps = write_onnx(small(refinement=refinement), tmp_path / "towers")
    assert max(gaps.values()) < 1e-5
    assert sorted(file.name for file in (tmp_path / "towers").iterdir()) == ["image.onnx", "text.onnx"]


@pytest.mark.skipif(find_spec("onnx") is None or find_spec("onnxscript") is None, reason="needs onnx and onnxscript")
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs onnxruntime")
@pytest.mark.filterwarnings("default")
def test_the_card_of_onnx_graphs_loads_them(trained: tuple[FineLIP, Path], tmp_path: Path, loaded: Loaded) -> None:
    export(trained[1], tmp_path / "towers", "onnx")
    card = tmp_path / "towers" / "MODEL_CARD.md"
    assert all(digest in card.read_text() for digest in digests(tmp_path / "towers"))
    names = loaded(card)
    assert [node.name for node in names["image"].get_inputs()] == ["images"]
    assert [node.name for node in names["text"].get_inputs()] == ["ids"]


@pytest.mark.skipif(find_spec("onnx") is not None, reason="needs an environment without onnx")
def test_without_onnx_one_sentence(
    trained: tuple[FineLIP, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export(trained[1], tmp_path / "towers", "onnx")
    assert "--layout onnx needs the packages onnx and onnxscript, missing: onnx" in capsys.readouterr().err


def test_sets_that_depend_on_the_text_cannot_be_a_graph(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finelip.onnx_towers.NEEDED", ())
    with pytest.raises(UsageError, match="needs sets that stand alone"):
        write_onnx(small(refinement="select_aggregate_image"), tmp_path / "towers")
    with pytest.raises(UsageError, match=r"--out must not exist yet for the layout onnx, got .*"):
        write_onnx(small(), tmp_path)


def test_a_graph_that_computes_something_else_is_refused(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    tower = ImageTower(model)
    monkeypatch.setattr("finelip.onnx_towers.runner", lambda file, program: program)
    assert parity(tower, tower, Path("image.onnx"), model, "image") == 0
    with pytest.raises(RunError, match=r"the graph image.onnx differs from the model by 0\.5, more than "):
        parity(tower, lambda images: [found + 0.5 for found in tower(images)], Path("image.onnx"), model, "image")


def test_released_layouts_are_read_as_models(small: Small, tmp_path: Path) -> None:
    """Files of the authors: two tables and aggregators, without this project's head."""
    for refinement in ("both", "image", "none"):
        model = small(seed=2, refinement=refinement)
        wide = FineLIP("clip_tiny", refinement=refinement, k_image=3, k_text=3).eval()
        torch.save({f"module.{n}": t for n, t in wide.state_dict().items()}, tmp_path / "released.pt")
        again = trained_model(str(tmp_path / "released.pt")).model
        assert again.refinement == refinement
        assert fingerprint(again) == fingerprint(wide)
        assert fingerprint(again) != fingerprint(model)


def test_fingerprint_follows_weights_and_their_use(small: Small) -> None:
    first, other = small(), small()
    assert fingerprint(first) == fingerprint(other)
    other.keep = 19
    assert fingerprint(first) != fingerprint(other)
    other = small()
    with torch.no_grad():
        other.visual.proj[0, 0] += 1e-6
    assert fingerprint(first) != fingerprint(other)


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "other.ckpt")
    with pytest.raises(
        UsageError, match=r"--weights must be a checkpoint of finelip fit, got another one \(.*other.ckpt\)"
    ):
        trained_model(str(tmp_path / "other.ckpt"))


def test_no_checkpoint_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["export", "--out", "x.safetensors"])
    assert "--weights last needs a run of finelip fit, found none in runs/finelip" in capsys.readouterr().err
