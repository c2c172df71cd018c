from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.build_sam import build_sam_vit_b
from torch import Tensor
from torch.nn import functional as F

from fedsam.sam import Sam
from fedsam.sam_checkpoint import HEADS, fit_checkpoint, load_checkpoint, resize_absolute, resize_relative
from shared.checkpoints import sha256_of
from shared.errors import UsageError

FRESH_UPSCALING = tuple(f"mask_decoder.output_upscaling.{index}." for index in (4, 6, 7, 9))


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A SAM of size tiny as published ones are: image size 256, four mask tokens, SAM's own decoder."""
    torch.manual_seed(0)
    model = Sam("tiny", 256, 3, "full", upsampling=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def file(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.save(published, path)
    return path


def test_what_becomes_of_each_tensor(
    published: dict[str, Tensor], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    model = Sam("tiny", 96, 2, "flap", rank=4, init=str(file))
    own = model.state_dict()
    blocks = [f"image_encoder.blocks.{index}.attn.rel_pos_{axis}" for index in (2, 5) for axis in "hw"]
    resized = {"image_encoder.pos_embed", *blocks}
    new = {
        name
        for name in own
        if "lora_" in name
        or name.startswith((*FRESH_UPSCALING, "mask_decoder.mask_tokens", "mask_decoder.iou_prediction_head.layers.2"))
        or (name.startswith("mask_decoder.output_hypernetworks_mlps") and ".layers.2." in name)
    }
    # The tiny decoder's map has eight channels in both heads, so the last layers of its hypernetworks fit as well.
    new -= {name for name in new if "hypernetworks" in name and published[name].shape == own[name].shape}
    for name, tensor in own.items():
        if name not in resized | new:
            assert torch.equal(tensor, published[name]), name
    positions = published["image_encoder.pos_embed"].permute(0, 3, 1, 2)
    expected = F.interpolate(positions, (6, 6), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
    assert torch.equal(own["image_encoder.pos_embed"], expected)
    relative = published[blocks[0]][None, None]
    assert torch.equal(own[blocks[0]], F.interpolate(relative, (11, 32), mode="bilinear", align_corners=False)[0, 0])
    assert own["image_encoder.blocks.0.attn.rel_pos_h"].shape == (15, 32)
    told = capsys.readouterr().out
    assert f"{len(own) - len(resized) - len(new)} tensors match, 5 resized (" in told
    assert f"{len(new)} new (" in told
    assert model.describe()["pretrained"] == "file"
    assert model.describe()["weights_sha256"] == sha256_of(file)


@pytest.mark.parametrize("classes", [1, 2, 3, 12])
def test_heads_of_the_published_sizes(classes: int) -> None:
    with torch.device("meta"):
        stock = Sam("vit_b", 1024, 3, "full", upsampling=4)
        model = Sam("vit_b", 224, classes, "flap")
    taken, report = fit_checkpoint(stock.state_dict(), model.state_dict(), model.measures)
    heads = {name for name in taken if name.startswith(HEADS)}
    layers = {
        f"mask_decoder.output_hypernetworks_mlps.{index}.layers.{layer}.{p}"
        for index in range(min(classes, 3) + 1)
        for layer in (0, 1)
        for p in ("weight", "bias")
    }
    iou = {
        f"mask_decoder.iou_prediction_head.layers.{layer}.{p}"
        for layer in ((0, 1, 2) if classes == 3 else (0, 1))
        for p in ("weight", "bias")
    }
    assert heads == layers | iou | ({"mask_decoder.mask_tokens.weight"} if classes == 3 else set())
    fresh, fresh_report = fit_checkpoint(stock.state_dict(), model.state_dict(), model.measures, "fresh")
    assert fresh.keys() == taken.keys() - heads
    assert len(report.resized) == len(fresh_report.resized) == 1 + 2 * 4
    assert {name for name in report.new if "upscaling" in name} == {
        name for name in model.state_dict() if name.startswith(FRESH_UPSCALING)
    }
    assert taken["image_encoder.pos_embed"].shape == (1, 14, 14, 768)
    assert taken["image_encoder.blocks.2.attn.rel_pos_h"].shape == (27, 64)


def test_a_published_vit_b_at_full_size(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in build_sam_vit_b().state_dict().items()}
    values = {name: 1.0 + index for index, name in enumerate(shapes)}
    torch.save({name: torch.full(shape, values[name]) for name, shape in shapes.items()}, tmp_path / "sam_vit_b.pth")
    model = Sam("vit_b", 224, 2, "flap", init=str(tmp_path / "sam_vit_b.pth"))
    own = model.state_dict()
    for name in ("image_encoder.blocks.11.attn.qkv.weight", "mask_decoder.output_upscaling.3.bias"):
        assert own[name].eq(values[name]).all()
    for name in ("image_encoder.pos_embed", "image_encoder.blocks.2.attn.rel_pos_w"):
        torch.testing.assert_close(own[name], torch.full_like(own[name], values[name]))


def test_safetensors_and_fresh_heads(published: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(published, tmp_path / "sam.safetensors")
    torch.manual_seed(2)
    model = Sam("tiny", 64, 3, "decoder", init=str(tmp_path / "sam.safetensors"), head_init="fresh")
    name = "mask_decoder.iou_prediction_head.layers.0.weight"
    assert not torch.equal(model.state_dict()[name], published[name])
    report = load_checkpoint(model, tmp_path / "sam.safetensors")
    assert torch.equal(model.state_dict()[name], published[name])
    assert name in report.matched
    assert "5 resized (image_encoder.pos_embed, …)" in str(report)


def test_sizes_that_agree_are_taken_as_they_are() -> None:
    positions = torch.randn(1, 4, 4, 3)
    assert resize_absolute(positions, 4) is positions
    assert resize_relative(positions[0, 0], 4) is not None
    constant = torch.full((127, 5), 2.5)
    assert torch.equal(resize_relative(constant, 27), torch.full((27, 5), 2.5))


def test_files_that_do_not_fit_are_refused(published: dict[str, Tensor], file: Path, tmp_path: Path) -> None:
    def refused(state: dict[str, Any], told: str, **options: Any) -> None:
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(UsageError, match=told):
            Sam("tiny", 64, 1, init=str(tmp_path / "other.pth"), **options)

    with pytest.raises(UsageError, match=r"model.init must be an existing file, got .*absent"):
        Sam("tiny", 64, 1, init=str(tmp_path / "absent"))
    asks = r"is a SAM tiny \(width 128, depth 6\), but model.size asks for vit_b \(width 768, depth 12\)"
    with pytest.raises(UsageError, match=asks), torch.device("meta"):
        Sam("vit_b", 64, 1, init=str(file))
    with (
        pytest.raises(UsageError, match=r"model.init tiny goes with model.size tiny only, got vit_b"),
        torch.device("meta"),
    ):
        Sam("vit_b", 64, 1, init="tiny")
    refused({"a": torch.zeros(1)}, r"must be a SAM checkpoint, got .* without image_encoder.patch_embed")
    norm = "image_encoder.blocks.3.norm1.weight"
    refused(
        {k: v for k, v in published.items() if k != norm}, rf"lacks 1 tensors that the model needs, missing \({norm}\)"
    )
    window = "image_encoder.blocks.0.attn.rel_pos_h"
    refused(published | {window: torch.zeros(27, 32)}, rf"lacks 1 tensors .*, of another shape \({window}\)")
    buffer = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    refused({k: v for k, v in published.items() if k != buffer}, rf"missing \({buffer}\)")
    refused(published, "model.head_init must be reference or fresh, got 'none'", head_init="none")
    refused({"image_encoder": object()}, "holds more than tensors")


def test_norms_of_dora_follow_the_loaded_weights(published: dict[str, Tensor], file: Path) -> None:
    model = Sam("tiny", 64, 1, "flap", dora="column", init=str(file))
    query = published["image_encoder.blocks.1.attn.qkv.weight"][:128]
    torch.testing.assert_close(model.image_encoder.blocks[1].attn.dora_q, query.norm(dim=0, keepdim=True))
