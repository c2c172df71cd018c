from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling import Sam as PublishedSam
from torch import nn

from fedsam.export import export_stock_sam, load_adapters, save_adapters, stock_sam_state
from fedsam.sam import Sam
from shared.errors import UsageError


def published(model: Sam, image_size: int) -> PublishedSam:
    """``segment_anything``'s own model in the size of ``model``."""
    m, grid = model.measures, image_size // 16
    return PublishedSam(
        ImageEncoderViT(
            img_size=image_size,
            embed_dim=m.width,
            depth=m.depth,
            num_heads=m.heads,
            mlp_ratio=m.mlp_ratio,
            out_chans=m.prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=m.window,
            global_attn_indexes=m.global_blocks,
        ),
        PromptEncoder(m.prompt_width, (grid, grid), (image_size, image_size), 16),
        MaskDecoder(
            transformer_dim=m.prompt_width,
            transformer=TwoWayTransformer(2, m.prompt_width, m.decoder_heads, m.decoder_mlp),
            iou_head_hidden_dim=m.prompt_width,
        ),
    ).eval()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_segment_anything_loads_and_runs_what_has_its_shapes(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Sam("tiny", 64, 3, "samed", lora_init="reference").eval()
    path = tmp_path / f"sam.{suffix}"
    report = export_stock_sam(model, path)
    assert report.absent == report.left_out == ()
    assert str(report) == f"{len(report.written)} tensors of a SAM for images of 64 pixels"
    stock = published(model, 64)
    stock.load_state_dict(load_file(path) if suffix == "safetensors" else torch.load(path, weights_only=True))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        embeddings = stock.image_encoder(images)
        sparse, dense = stock.prompt_encoder(points=None, boxes=None, masks=None)
        masks, _ = stock.mask_decoder.predict_masks(embeddings, stock.prompt_encoder.get_dense_pe(), sparse, dense)
        torch.testing.assert_close(masks, model.low_res_logits(images), rtol=1e-4, atol=1e-5)


def test_parts_without_a_place_in_the_published_decoder_are_named() -> None:
    torch.manual_seed(1)
    model = Sam("tiny", 64, 2, "flap", lora_init="reference")
    state, report = stock_sam_state(model, image_size=256)
    owners = {".".join(name.split(".")[:2]) for name in report.absent}
    assert owners == {
        "mask_decoder.mask_tokens",
        "mask_decoder.output_hypernetworks_mlps",
        "mask_decoder.iou_prediction_head",
    }
    assert "mask_decoder.output_upscaling.9.weight" in report.left_out
    assert not [name for name in state if "lora_" in name]
    stock = published(model, 256)
    answer = stock.load_state_dict(state, strict=False)
    assert tuple(answer.missing_keys) == report.absent
    assert answer.unexpected_keys == []
    assert "absent (mask_decoder.iou_prediction_head, mask_decoder.mask_tokens, " in str(report)
    assert torch.isfinite(stock.image_encoder(torch.rand(1, 3, 256, 256))).all()


def test_adapters_between_slices_have_no_place_in_a_plain_sam() -> None:
    with pytest.raises(UsageError, match="adapters between slices cannot be written as a plain SAM"):
        stock_sam_state(Sam("tiny", 64, 1, "masam", adapter_channels=4))
    with pytest.raises(UsageError, match="--image_size must be a positive multiple of 16, got 100"):
        stock_sam_state(Sam("tiny", 64, 1), image_size=100)


@pytest.mark.parametrize("variant", ["flap", "masam", "full"])
def test_adapters_alone_make_a_new_model_of_the_same_base_answer_alike(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    trained = Sam("tiny", 64, 2, variant, rank=4, adapter_channels=8, num_lora=2).eval()
    base = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    payload = save_adapters(trained, tmp_path / "adapters.safetensors", personal=True)
    personal = sum(trained.get_parameter(name).numel() for name in trained.personal_names())
    assert payload == 4 * (trained.trainable_numbers() + personal)
    other = Sam("tiny", 64, 2, variant, rank=4, adapter_channels=8, num_lora=2).eval()
    other.load_state_dict(base)
    load_adapters(other, tmp_path / "adapters.safetensors")
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(other(images), trained(images))


def test_the_payload_of_flap_is_the_papers(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = Sam("vit_b", 224, 2, "flap")
    model.load_state_dict({name: torch.zeros(t.shape) for name, t in model.state_dict().items()}, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or any(part in name for part in ("upscaling", "hypernet", "mask_tok")))
    path = tmp_path / "flap.safetensors"
    assert save_adapters(model, path) == 7_385_536
    assert path.stat().st_size == pytest.approx(7_385_536, rel=0.01)


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(Sam("tiny", 64, 2, "flap", rank=4), path)
    with pytest.raises(UsageError, match=r"belong to a model with rank 4, this one has 8"):
        load_adapters(Sam("tiny", 64, 2, "flap", rank=8), path)
    with pytest.raises(UsageError, match=r"belong to a model with num_classes 2, this one has 1"):
        load_adapters(Sam("tiny", 64, 1, "flap", rank=4), path)
    load_adapters(Sam("tiny", 96, 2, "flap", rank=4), path)  # no trained tensor depends on the image size
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="adapters must be a file written by fedsam"):
        load_adapters(Sam("tiny", 64, 2, "flap", rank=4), path)
