"""The towers against open_clip's own CLIP and that of transformers, on the same random weights."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from finelip.tokenizer import LongTokenizer
from finelip.towers import (
    CLIP_TINY,
    backbone_config,
    backbone_names,
    build_clip,
    causal_mask,
    has_quick_gelu,
    image_tokens,
    text_tokens,
)
from shared.errors import UsageError

TEXTS = [
    "a photo of a cat",
    "",
    "!?!?! well!!!?!!",
    "a red disc above two striped bars on a plain ground, seen from afar",
]


def towers(config: dict[str, Any]) -> tuple[open_clip.CLIP, open_clip.CLIP]:
    """Ours and open_clip's, with the same weights."""
    ours = build_clip(config).eval()
    theirs = open_clip.CLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def tokens_of_text(clip: open_clip.CLIP, ids: Tensor) -> Tensor:
    length = ids.shape[1]
    parts = (clip.token_embedding, clip.transformer, clip.ln_final, clip.text_projection)
    return text_tokens(ids, clip.positional_embedding[:length], *parts, causal_mask(length))


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_global_tokens_are_open_clips(quick_gelu: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = towers(CLIP_TINY | {"quick_gelu": quick_gelu})
    assert has_quick_gelu(ours.transformer) == has_quick_gelu(ours.visual) == quick_gelu
    images, tokens = torch.randn(3, 3, 96, 96), LongTokenizer(77)(TEXTS)
    with torch.no_grad():
        image = image_tokens(ours.visual, images)
        text = tokens_of_text(ours, tokens.ids)
        torch.testing.assert_close(image[:, 0], theirs.encode_image(images), rtol=1e-5, atol=1e-5)
        ends = text[torch.arange(len(TEXTS)), tokens.lengths - 1]
        torch.testing.assert_close(ends, theirs.encode_text(tokens.ids), rtol=1e-5, atol=1e-5)
    assert image.shape == (3, 37, 128)
    assert text.shape == (4, 77, 128)


def huggingface(clip: open_clip.CLIP) -> CLIPModel:
    """transformers' CLIP with the weights of an open_clip one, name by name."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text = shape | {"projection_dim": 128, "max_position_embeddings": 77, "vocab_size": 49408}
    vision = shape | {"projection_dim": 128, "image_size": 96, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)).eval()
    w = clip.state_dict()
    new = {
        "logit_scale": w["logit_scale"],
        "text_model.embeddings.token_embedding.weight": w["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": w["positional_embedding"],
        "text_projection.weight": w["text_projection"].T,
        "visual_projection.weight": w["visual.proj"].T,
        "vision_model.embeddings.class_embedding": w["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": w["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": w["visual.positional_embedding"],
    }
    for theirs, ours in (
        ("text_model.final_layer_norm", "ln_final"),
        ("vision_model.post_layernorm", "visual.ln_post"),
    ):
        new |= {f"{theirs}.{n}": w[f"{ours}.{n}"] for n in ("weight", "bias")}
    new |= {f"vision_model.pre_layrnorm.{n}": w[f"visual.ln_pre.{n}"] for n in ("weight", "bias")}
    for theirs, ours in (("text_model", "transformer"), ("vision_model", "visual.transformer")):
        for i in range(4):
            a, b = f"{theirs}.encoder.layers.{i}", f"{ours}.resblocks.{i}"
            for n in ("weight", "bias"):
                q, k, v = w[f"{b}.attn.in_proj_{n}"].chunk(3)
                new |= {f"{a}.self_attn.{p}_proj.{n}": t for p, t in (("q", q), ("k", k), ("v", v))}
                new[f"{a}.self_attn.out_proj.{n}"] = w[f"{b}.attn.out_proj.{n}"]
                new |= {f"{a}.layer_norm{j}.{n}": w[f"{b}.ln_{j}.{n}"] for j in (1, 2)}
                new[f"{a}.mlp.fc1.{n}"], new[f"{a}.mlp.fc2.{n}"] = w[f"{b}.mlp.c_fc.{n}"], w[f"{b}.mlp.c_proj.{n}"]
    model.load_state_dict(new)
    return model


def test_all_tokens_are_those_of_transformers() -> None:
    torch.manual_seed(1)
    ours = build_clip(CLIP_TINY).eval()
    theirs = huggingface(ours)
    images, tokens = torch.randn(3, 3, 96, 96), LongTokenizer(77)(TEXTS)
    with torch.no_grad():
        image = image_tokens(ours.visual, images)
        text = tokens_of_text(ours, tokens.ids)
        hidden = theirs.vision_model(images).last_hidden_state
        their_image = theirs.visual_projection(theirs.vision_model.post_layernorm(hidden))
        their_text = theirs.text_projection(theirs.text_model(tokens.ids).last_hidden_state)
        global_image = theirs.get_image_features(images).pooler_output
    torch.testing.assert_close(image, their_image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(text, their_text, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image[:, 0], global_image, rtol=1e-5, atol=1e-5)


def test_slots_after_the_end_token_change_nothing_before_it() -> None:
    torch.manual_seed(2)
    clip = build_clip(CLIP_TINY).eval().double()
    tokens = LongTokenizer(77)(TEXTS)
    with torch.no_grad():
        whole = tokens_of_text(clip, tokens.ids)
        for row, length in enumerate(tokens.lengths.tolist()):
            other = tokens.ids.clone()
            other[row, length:] = 1234
            changed = tokens_of_text(clip, other)[row]
            cut = tokens_of_text(clip, tokens.ids[row : row + 1, :length])[0]
            torch.testing.assert_close(changed[:length], whole[row, :length], rtol=0, atol=1e-12)
            torch.testing.assert_close(cut, whole[row, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "count"), [("ViT-B-16-quickgelu", 149_620_737), ("ViT-L-14-quickgelu", 427_616_513)])
def test_parameters_of_clip(name: str, count: int) -> None:
    with torch.device("meta"):
        clip = build_clip(backbone_config(name))
    assert sum(p.numel() for p in clip.parameters()) == count


def test_backbones() -> None:
    names = backbone_names()
    wanted = {"ViT-B-32-quickgelu", "ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "ViT-L-14-336-quickgelu", "ViT-bigG-14"}
    assert wanted | {"clip_tiny"} <= set(names)
    assert not {"RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "roberta-ViT-B-32"} & set(names)
    with pytest.raises(
        UsageError, match="backbone must be a model of open_clip or clip_tiny, got 'ViT-B-17'; did you mean"
    ):
        backbone_config("ViT-B-17")
    with pytest.raises(UsageError, match="plain ViT and a causal text transformer, got 'RN50'"):
        backbone_config("RN50")
    config = backbone_config("clip_tiny")
    config["text_cfg"]["width"] = 3
    assert backbone_config("clip_tiny") != config  # a copy


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(UsageError, match=r"images must be \(batch, 3, 96, 96\) for this model, got \(1, 3, 64, 64\)"):
        image_tokens(build_clip(CLIP_TINY).visual, torch.zeros(1, 3, 64, 64))
