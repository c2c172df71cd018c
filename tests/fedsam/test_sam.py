"""Counts of the whole model, its function against independent implementations, and what a training step moves."""

from typing import Any

import pytest
import torch
from segment_anything.build_sam import build_sam_vit_b
from torch import Tensor, nn
from transformers import SamConfig, SamModel

from fedsam.components import component_of
from fedsam.sam import Sam
from fedsam.variants import VARIANTS
from shared.errors import UsageError


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def meta(*args: Any, **options: Any) -> Sam:
    with torch.device("meta"):
        return Sam(*args, **options)


# ---------------------------------------------------------------------- counts of the specification


@pytest.mark.parametrize(
    ("variant", "travelling", "paper"),
    [
        ("full", 90_532_927, 67.452),
        ("attn", 30_053_104, 22.39),
        ("attn_paper", 31_681_152, 23.604),
        ("decoder", 3_902_195, 2.907),
        ("partial_decoder", 478_320, 0.356),
        ("lora", 1_368_064, 1.019),
        ("lora_decoder", 5_270_259, 3.927),
        ("flap", 1_846_384, 1.376),
        ("masam", 28_800_831, None),
    ],
)
def test_what_travels_for_two_classes(variant: str, travelling: int, paper: float | None) -> None:
    model = meta("vit_b", 224, 2, variant)
    assert model.trainable_numbers() == travelling
    assert model.slice_wise == (variant != "masam")
    if paper:
        assert travelling * 32 * 25 / 2**30 == pytest.approx(paper, abs=6e-3)


@pytest.mark.parametrize("classes", [1, 2, 12])
def test_counts_follow_the_number_of_classes(classes: int) -> None:
    partial = 76_632 + 133_896 * (classes + 1)
    decoder = 3_291_264 + 256 + partial + 131_584 + 257 * (classes + 1)
    counts = {name: meta("vit_b", 224, classes, name).trainable_numbers() for name in VARIANTS}
    assert counts["partial_decoder"] == partial == {1: 344_424, 2: 478_320, 12: 1_817_280}[classes]
    assert counts["decoder"] == decoder
    assert counts["lora"] == 1_368_064 == 4 * 12 * 32 * 768 + 5888 * 32
    assert counts["flap"] == partial + 1_368_064
    assert counts["lora_decoder"] == decoder + 1_368_064
    assert counts["masam"] == 73_728 + 24_818_688 + decoder + 6_220
    assert counts["full"] == 86_624_512 + 6_220 + decoder
    # SAMed: SAM's two stages and a map of 32 channels, rank 4 in the encoder alone.
    stock = 73_952 + (classes + 1) * (2 * 65_792 + 8_224 + 256)
    assert counts["samed"] == 4 * 12 * 4 * 768 + 3_291_264 + 256 + stock + 131_584 + 257 * (classes + 1) + 6_220


@pytest.mark.parametrize(
    ("size", "image_size", "encoder"),
    [
        ("vit_b", 224, 86_624_512),
        ("vit_b", 256, 86_672_640),
        ("vit_b", 512, 87_278_848),
        ("vit_b", 1024, 89_670_912),
    ],
)
def test_encoders_and_prompt_encoders(size: str, image_size: int, encoder: int) -> None:
    model = meta(size, image_size, 2, "full")
    assert numbers(model.image_encoder) == encoder
    assert numbers(model.prompt_encoder) == 6_220
    assert model.trainable_numbers() == encoder + 6_220 + 3_902_195


@pytest.mark.parametrize(("size", "travelling"), [("vit_l", 3_812_464), ("vit_h", 5_909_616)])
@pytest.mark.parametrize("image_size", [224, 1024])
def test_larger_sizes(size: str, image_size: int, travelling: int) -> None:
    model = meta(size, image_size, 2, "flap")
    assert model.trainable_numbers() == travelling


def test_the_published_model_is_built_exactly() -> None:
    with torch.device("meta"):
        published = build_sam_vit_b()
    ours = meta("vit_b", 1024, 3, "full", upsampling=4)
    assert numbers(ours) == numbers(published) == 93_735_472
    shapes = [{name: tensor.shape for name, tensor in m.state_dict().items()} for m in (ours, published)]
    assert shapes[0] == shapes[1]


def test_tiny_fits_into_three_megabytes_of_half_precision() -> None:
    with torch.device("meta"):
        assert 2 * numbers(Sam("tiny", 128, 3, "full", upsampling=4)) <= 2_800_000


# ---------------------------------------------------------------------- the function


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ``segment_anything`` as transformers has them."""
    renamed = {}
    for name, tensor in state.items():
        if name == "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
            renamed["prompt_encoder.shared_embedding.positional_embedding"] = tensor
            renamed["shared_image_embedding.positional_embedding"] = tensor
            continue
        name = name.replace("image_encoder.", "vision_encoder.").replace("patch_embed.proj", "patch_embed.projection")
        name = name.replace("blocks.", "layers.")
        for theirs, ours in (("conv1", 0), ("layer_norm1", 1), ("conv2", 2), ("layer_norm2", 3)):
            name = name.replace(f"neck.{ours}.", f"neck.{theirs}.")
        if name.startswith("vision_encoder.layers"):
            name = name.replace(".norm", ".layer_norm")
        if name.startswith("prompt_encoder."):
            name = name.replace("mask_downscaling.", "mask_embed.").replace("point_embeddings.", "point_embed.")
            for theirs, ours in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6)):
                name = name.replace(f"mask_embed.{ours}.", f"mask_embed.{theirs}.")
        if name.startswith("mask_decoder."):
            name = name.replace("norm_final_attn", "layer_norm_final_attn")
            if ".transformer.layers." in name:
                name = name.replace(".norm", ".layer_norm")
            for theirs, ours in (("upscale_conv1", 0), ("upscale_layer_norm", 1), ("upscale_conv2", 3)):
                name = name.replace(f"output_upscaling.{ours}.", f"{theirs}.")
            if "hypernetworks" in name or "iou_prediction_head" in name:
                for theirs, ours in (("proj_in", 0), ("layers.0", 1), ("proj_out", 2)):
                    head, found, tail = name.rpartition(f"layers.{ours}.")
                    if found:
                        name = f"{head}{theirs}.{tail}"
                        break
        renamed[name] = tensor
    return renamed


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Within ``tolerance`` of the largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("attention", ["sdpa", "reference"])
@pytest.mark.parametrize("image_size", [64, 160])
def test_the_published_decoder_agrees_with_transformers(attention: Any, image_size: int) -> None:
    torch.manual_seed(0)
    ours = Sam("tiny", image_size, 3, "full", upsampling=4, attention=attention).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    m = ours.measures
    config = SamConfig(
        vision_config={
            "hidden_size": m.width,
            "num_hidden_layers": m.depth,
            "num_attention_heads": m.heads,
            "mlp_ratio": m.mlp_ratio,
            "window_size": m.window,
            "global_attn_indexes": list(m.global_blocks),
            "image_size": image_size,
            "output_channels": m.prompt_width,
            "num_pos_feats": m.prompt_width // 2,
        },
        prompt_encoder_config={"hidden_size": m.prompt_width, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": m.prompt_width,
            "mlp_dim": m.decoder_mlp,
            "num_attention_heads": m.decoder_heads,
            "iou_head_hidden_dim": m.prompt_width,
        },
    )
    theirs = SamModel(config).eval()
    theirs.shared_image_embedding.scale = theirs.prompt_encoder.shared_embedding.scale = 1.0
    theirs.load_state_dict(transformers_names(ours.state_dict()))
    images = torch.rand(2, 3, image_size, image_size)
    with torch.no_grad():
        embeddings = theirs.get_image_embeddings(images)
        assert_close(ours.embed(images), embeddings)
        answer = theirs(image_embeddings=embeddings, multimask_output=True)
        masks, overlaps = ours.decode(embeddings)
        assert_close(masks[:, 1:], answer.pred_masks[:, 0])
        assert_close(overlaps[:, 1:], answer.iou_scores[:, 0])
        # With one point per image: prompts of their own, not shared.
        points, labels = torch.tensor([[[9.0, 30.0]], [[40.0, 5.0]]]), torch.ones(2, 1)
        answer = theirs(image_embeddings=embeddings, input_points=points[:, None], input_labels=labels[:, None].int())
        masks, _ = ours.decode(embeddings, points=(points, labels))
        assert_close(masks[:, 1:], answer.pred_masks[:, 0], 5e-5)  # rounding: 1.7e-5 of logits near 1


@pytest.mark.parametrize("upsampling", [4, 16])
def test_broadcast_tokens_answer_as_repeated_ones(upsampling: Any) -> None:
    torch.manual_seed(1)
    model = Sam("tiny", 64, 2, "flap", upsampling=upsampling, lora_init="reference").eval()
    embeddings = torch.randn(5, 64, 4, 4)
    shared, overlaps = model.decode(embeddings)
    assert shared.shape == (5, 3, 4 * upsampling, 4 * upsampling)
    assert overlaps.shape == (5, 3)
    sparse, dense = model.prompt_encoder(points=None, boxes=None, masks=None)
    positions = model.prompt_encoder.get_dense_pe()
    repeated, _ = model.mask_decoder(embeddings, positions, sparse.repeat(5, 1, 1), dense.repeat(5, 1, 1, 1))
    torch.testing.assert_close(repeated, shared, rtol=1e-5, atol=1e-6)
    one_by_one = torch.cat([model.decode(embedding[None])[0] for embedding in embeddings])
    torch.testing.assert_close(one_by_one, shared, rtol=1e-5, atol=1e-6)


def test_logits_are_the_inner_products_of_hypernetworks_and_map() -> None:
    torch.manual_seed(2)
    model = Sam("tiny", 64, 2, "decoder").eval()
    seen: dict[str, Tensor] = {}
    decoder = model.mask_decoder
    decoder.output_upscaling.register_forward_hook(lambda _, __, out: seen.update(map=out))
    for index, mlp in enumerate(decoder.output_hypernetworks_mlps):
        mlp.register_forward_hook(lambda _, __, out, index=index: seen.update({str(index): out}))
    logits = model(torch.rand(3, 3, 64, 64))
    assert seen["map"].shape == (3, 8, 64, 64)
    for index in range(3):
        torch.testing.assert_close(logits[:, index], torch.einsum("nc,nchw->nhw", seen[str(index)], seen["map"]))


def test_quarter_resolution_is_resized_bilinearly() -> None:
    torch.manual_seed(3)
    model = Sam("tiny", 64, 1, "samed").eval()
    images = torch.rand(2, 3, 64, 64)
    low = model.low_res_logits(images)
    assert low.shape == (2, 2, 16, 16)
    expected = nn.functional.interpolate(low, (64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(model(images), expected)


def test_only_adapters_mix_slices() -> None:
    torch.manual_seed(4)
    images = torch.rand(6, 3, 64, 64)
    changed = images.clone()
    changed[1] += 0.5
    for variant in ("flap", "masam"):
        model = Sam("tiny", 64, 1, variant, adapter_channels=8).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".adapter_" in name:
                    parameter.normal_(0, 0.1)
            differs = (model(images, slices=3) != model(changed, slices=3)).flatten(1).any(1)
        assert differs.tolist() == ([True] * 3 + [False] * 3 if variant == "masam" else [False, True] + [False] * 4)
    with pytest.raises(UsageError, match="slices must divide the number of images, got 4 slices and 6 images"):
        model(images, slices=4)


# ---------------------------------------------------------------------- training

UNUSED = ("prompt_encoder.point_embeddings", "prompt_encoder.not_a_point", "prompt_encoder.mask_downscaling")
"""Never asked for without prompts; like the head of predicted overlaps, which no loss looks at."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_moves_what_is_trained_and_nothing_else(variant: str) -> None:
    torch.manual_seed(5)
    model = Sam("tiny", 64, 2, variant, rank=4, adapter_channels=8, lora_init="reference")
    with torch.no_grad():  # zero on one side would hide the gradient of the other
        for name, parameter in model.named_parameters():
            if name.endswith(("fact.V", "up.weight", "rel_pos_h", "rel_pos_w")):
                parameter.normal_(0, 0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    logits = model(torch.rand(4, 3, 64, 64), slices=2)
    nn.functional.cross_entropy(logits, torch.randint(3, (4, 64, 64))).backward()
    for name, parameter in model.named_parameters():
        reached = parameter.requires_grad and not name.startswith((*UNUSED, "mask_decoder.iou_prediction_head"))
        assert (parameter.grad is not None) == reached, name
        if reached and not name.endswith("k_proj.bias"):  # a constant shift of all keys' logits cancels in the softmax
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name
    optimizer.step()
    for name, tensor in model.state_dict().items():
        parameter = dict(model.named_parameters()).get(name)
        assert torch.equal(tensor, before[name]) == (parameter is None or parameter.grad is None), name


def test_a_frozen_encoder_keeps_no_activations() -> None:
    images = torch.rand(2, 3, 64, 64)
    for variant in VARIANTS:
        model = Sam("tiny", 64, 1, variant, rank=2, adapter_channels=8)
        frozen = not any(p.requires_grad for p in model.image_encoder.parameters())
        assert model.embed(images).requires_grad == (not frozen)
        assert frozen == (variant in {"decoder", "partial_decoder"})
    # Nothing below the first trained module is kept either: the patches need no gradient where LoRA starts.
    seen: list[bool] = []
    flap = Sam("tiny", 64, 1, "flap")
    flap.image_encoder.blocks[0].norm1.register_forward_hook(lambda _, __, out: seen.append(out.requires_grad))
    flap.embed(images)
    assert seen == [False]


@pytest.mark.parametrize("variant", ["full", "flap", "masam"])
@pytest.mark.parametrize("attention", ["sdpa", "reference"])
def test_bfloat16_stays_finite_and_close(variant: str, attention: Any) -> None:
    torch.manual_seed(6)
    model = Sam("tiny", 64, 1, variant, lora_init="reference", attention=attention, fact_dropout=0.0)
    images = torch.rand(2, 3, 64, 64)
    exact = model(images, slices=2)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images, slices=2)
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert (logits - exact).abs().max() < 0.05 * exact.abs().max() + 0.02


def test_gradients_of_both_attentions_agree_through_the_whole_model() -> None:
    images = torch.rand(2, 3, 160, 160)
    gradients = []
    for attention in ("sdpa", "reference"):
        torch.manual_seed(7)
        model = Sam("tiny", 160, 1, "flap", lora_init="reference", rank=4, attention=attention).double()  # type: ignore[arg-type]
        model.prompt_encoder.pe_layer.float()
        model.mask_decoder.float()
        model.embed(images.double()).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.image_encoder.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-8, atol=1e-12, msg=name)


def test_names_for_the_server() -> None:
    model = meta("tiny", 64, 1, "flap", num_lora=2)
    names = model.trainable_names()
    assert "image_encoder.blocks.0.attn.lora_q.0.A" in names
    assert "mask_decoder.transformer.final_attn_token_to_image.lora_v.1.B" in names
    personal = model.personal_names()
    assert len(personal) == 6 + 7
    assert not set(personal) & set(names)
    assert all(component_of(name).endswith(".lora") for name in personal)
    assert set(names) < model.state_dict().keys()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": "vit_x"}, "model.size must be one of tiny, vit_b, vit_l, vit_h, got 'vit_x'"),
        ({"image_size": 100}, "model.image_size must be a multiple of 16, got 100"),
        ({"num_classes": 0}, "model.num_classes must be at least 1, got 0"),
        ({"lora_init": "zero"}, "model.lora_init must be zero_b or reference, got 'zero'"),
        ({"num_lora": 0}, "model.num_lora must be at least 1, got 0"),
        ({"dora": "both"}, "model.dora must be column, row or null, got 'both'"),
        ({"fact_dropout": 1.0}, "model.fact_dropout must be at least 0 and below 1, got 1.0"),
        ({"adapter_channels": 0}, "model.adapter_channels must be at least 1, got 0"),
        ({"attention": "flash"}, "model.attention must be sdpa or reference, got 'flash'"),
    ],
)
def test_bad_options_end_in_a_sentence(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Sam(**({"size": "tiny", "image_size": 64} | options))
    with pytest.raises(UsageError, match=r"images must be \(N, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        meta("tiny", 64)(torch.empty(1, 3, 32, 32, device="meta"))
