"""LoRA, DoRA, FacT and adapters against their formulas, peft, and the frozen model."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from fedsam.adapter3d import SliceAdapter
from fedsam.export import merged_state
from fedsam.fact import SharedFactors
from fedsam.image_encoder import EncoderAttention
from fedsam.lora import LoraOptions
from fedsam.sam import Sam
from shared.errors import UsageError

D, HEADS = 12, 2


def attention(options: LoraOptions | None = None) -> EncoderAttention:
    module = EncoderAttention(Attention(D, HEADS, use_rel_pos=True, input_size=(3, 3)))
    if options:
        module.add_lora(options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5)
    return module


def test_without_b_the_frozen_model_answers_bit_for_bit() -> None:
    torch.manual_seed(0)
    adapted = Sam("tiny", 64, 2, "flap", rank=4).eval()
    plain = Sam("tiny", 64, 2, "full").eval()
    plain.load_state_dict(merged_state(adapted))
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(adapted(images), plain(images))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rank": 0}, "model.rank must be at least 1, got 0"),
        ({"num": 0}, "model.num_lora must be at least 1, got 0"),
        ({"init": "ones"}, "model.lora_init must be zero_b or reference, got 'ones'"),
        ({"dora": "both"}, "model.dora must be column, row or null, got 'both'"),
    ],
)
def test_bad_options(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        LoraOptions(**options)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("lora_decoder", {"lora_init": "reference", "alpha": 0.7}),
        ("flap", {"lora_init": "reference", "num_lora": 3}),
        ("flap", {"lora_init": "reference", "dora": "column"}),
        ("flap", {"lora_init": "reference", "dora": "row", "num_lora": 2, "alpha": 2.0}),
        ("samed", {"lora_init": "reference"}),
        ("masam", {"adapter_channels": 8}),
    ],
)
def test_merged_weights_answer_as_the_adapted_model(variant: str, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    adapted = Sam("tiny", 64, 2, variant, rank=4, **options).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "dora_" in name:
                parameter.mul_(1.2)
            if name.endswith(("fact.V", "up.weight")):
                parameter.normal_(0, 0.1)
    merged = Sam(**adapted.merged_arguments()).eval()
    assert [key for key in merged.load_state_dict(merged_state(adapted)) if key] == []
    images = torch.rand(4, 3, 64, 64)
    expected = adapted(images, slices=2)
    assert (merged(images, slices=2) - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("dora", [None, "column", "row"])
@pytest.mark.parametrize("num", [1, 3])
def test_projections_and_gradients_follow_the_formula(dora: Any, num: int) -> None:
    torch.manual_seed(2)
    module = attention(LoraOptions(rank=2, alpha=0.7, num=num, dora=dora)).double()
    x = torch.randn(5, D, dtype=torch.float64)
    shares = torch.softmax(torch.sigmoid(module.lora_scale), 0) if num > 1 else torch.ones(1)
    expected = []
    for index, side in enumerate("qkv"):
        weight = module.qkv.weight[index * D : (index + 1) * D]
        if side != "k":
            pairs = getattr(module, f"lora_{side}")
            for share, pair in zip(shares, [pairs] if num == 1 else pairs, strict=True):
                weight = weight + 0.7 * share * (pair.B @ pair.A)
            if dora:
                norm = weight.square().sum(0 if dora == "column" else 1, keepdim=True).sqrt()
                weight = getattr(module, f"dora_{side}") * weight / norm
        expected.append(x @ weight.T + module.qkv.bias[index * D : (index + 1) * D])
    found = module.project(x)
    trained = [p for name, p in module.named_parameters() if "lora_" in name or "dora_" in name]
    assert len(trained) == 2 * (2 * num + bool(dora)) + (num > 1)
    mix = torch.randn(3, 5, D, dtype=torch.float64)
    gradients = [torch.autograd.grad((torch.stack(list(y)) * mix).sum(), trained) for y in (found, expected)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_decoder_attention_is_adapted_by_the_same_formula() -> None:
    torch.manual_seed(3)
    model = Sam("tiny", 64, 1, "lora", rank=3, lora_init="reference", alpha=0.5)
    module = model.mask_decoder.transformer.layers[1].cross_attn_token_to_image
    q, k, v = torch.randn(1, 4, 64), torch.randn(2, 9, 64), torch.randn(2, 9, 64)
    query = q @ (module.q_proj.weight + 0.5 * module.lora_q.B @ module.lora_q.A).T + module.q_proj.bias
    value = v @ (module.v_proj.weight + 0.5 * module.lora_v.B @ module.lora_v.A).T + module.v_proj.bias
    heads = [t.unflatten(-1, (4, 8)).transpose(1, 2) for t in (query, module.k_proj(k), value)]
    mixed = (heads[0] @ heads[1].mT / 8**0.5).softmax(-1) @ heads[2]
    torch.testing.assert_close(module(q, k, v), module.out_proj(mixed.transpose(1, 2).flatten(2)))


def test_query_and_value_factors_are_one_lora_of_twice_the_rank_in_peft() -> None:
    torch.manual_seed(4)
    rank = 3
    module = attention(LoraOptions(rank=rank))

    class Projection(nn.Module):
        def __init__(self, qkv: nn.Linear) -> None:
            super().__init__()
            self.qkv = nn.Linear(D, 3 * D)
            self.qkv.load_state_dict(qkv.state_dict())

        def forward(self, x: Tensor) -> Tensor:
            return self.qkv(x)

    peer = get_peft_model(Projection(module.qkv), LoraConfig(r=2 * rank, lora_alpha=2 * rank, target_modules=["qkv"]))
    layer = peer.base_model.model.qkv
    zero = torch.zeros(D, rank)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.cat([module.lora_q.A, module.lora_v.A]))
        layer.lora_B["default"].weight.copy_(
            torch.cat(
                [torch.cat([module.lora_q.B, zero], 1), torch.zeros(D, 2 * rank), torch.cat([zero, module.lora_v.B], 1)]
            )
        )
    x = torch.randn(4, 9, D)
    found, expected = torch.cat(module.project(x), -1), peer(x)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    a, b = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
    torch.testing.assert_close(module.lora_q.A.grad, a[:rank])
    torch.testing.assert_close(module.lora_v.A.grad, a[rank:])
    torch.testing.assert_close(module.lora_q.B.grad, b[:D, :rank])
    torch.testing.assert_close(module.lora_v.B.grad, b[-D:, rank:])


def test_initial_factors_are_uniform_within_the_fan_in() -> None:
    torch.manual_seed(5)
    for init in ("zero_b", "reference"):
        model = Sam("tiny", 64, 1, "lora", rank=16, lora_init=init)  # type: ignore[arg-type]
        pair = model.image_encoder.blocks[0].attn.lora_q
        assert pair.A.shape == (16, 128)
        assert pair.B.shape == (128, 16)
        assert 0.95 / 128**0.5 < pair.A.abs().max() <= 1 / 128**0.5
        limit = 1 / 16**0.5 if init == "reference" else 0.0
        assert 0.95 * limit <= pair.B.abs().max() <= limit


@pytest.mark.parametrize("axis", ["column", "row"])
def test_new_norms_change_nothing_and_are_trained(axis: Any) -> None:
    torch.manual_seed(6)
    model = Sam("tiny", 64, 1, "flap", rank=2, dora=axis).eval()
    plain = Sam("tiny", 64, 1, "full").eval()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if "lora_" not in n and "dora_" not in n})
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-5)
    norms = model.image_encoder.blocks[0].attn.dora_v
    assert norms.shape == ((1, 128) if axis == "column" else (128, 1))
    assert norms.requires_grad
    with torch.no_grad():
        model.image_encoder.blocks[0].attn.qkv.weight.mul_(3)
    model.reset_magnitudes()
    weight = model.image_encoder.blocks[0].attn.qkv.weight[256:]
    torch.testing.assert_close(norms, weight.norm(dim=0 if axis == "column" else 1, keepdim=True))


def test_mixing_weights_are_drawn_per_client() -> None:
    model = Sam("tiny", 64, 1, "flap", rank=2, num_lora=4)
    drawn = model.drawn_lora_scales(torch.Generator().manual_seed(7))
    assert list(drawn) == model.personal_names()
    scales = torch.stack(list(drawn.values()))
    assert scales.shape == (13, 4)
    assert ((scales >= 0) & (scales < 1)).all()
    again = model.drawn_lora_scales(torch.Generator().manual_seed(7))
    assert all(torch.equal(again[name], scale) for name, scale in drawn.items())


# ---------------------------------------------------------------------- FacT and adapters


def test_fact_shares_its_outer_factors() -> None:
    torch.manual_seed(8)
    shared = SharedFactors(D, 3, dropout=0.1, scale=2.0)
    assert torch.equal(shared.V, torch.zeros(D, 3))
    module = attention()
    module.add_fact(shared)
    assert not [name for name, _ in module.named_parameters() if name.endswith((".U", ".V"))]
    with torch.no_grad():
        shared.V.normal_()
    shared.eval()
    x = torch.randn(5, D)
    q, k, v = module.project(x)
    plain = [x @ w.T + b for w, b in zip(module.qkv.weight.chunk(3), module.qkv.bias.chunk(3), strict=True)]
    torch.testing.assert_close(q, plain[0] + 2 * (x @ shared.U.T @ module.fact_q.T @ shared.V.T))
    torch.testing.assert_close(k, plain[1])
    torch.testing.assert_close(v, plain[2] + 2 * (x @ shared.U.T @ module.fact_v.T @ shared.V.T))


def test_fact_drops_between_core_and_outer_factor() -> None:
    torch.manual_seed(9)
    shared = SharedFactors(400, 200, dropout=0.1)
    core = nn.Parameter(torch.eye(200))
    with torch.no_grad():
        shared.U.copy_(torch.eye(200, 400))
        shared.V.copy_(torch.eye(400, 200))
    query, value = shared(torch.ones(100, 400), core, core)
    for gain in (query[:, :200], value[:, :200]):
        assert set(gain.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).item()}
        assert (gain == 0).float().mean() == pytest.approx(0.1, abs=0.01)
    assert not torch.equal(query, value)


def test_an_adapter_is_its_formula() -> None:
    torch.manual_seed(10)
    adapter = SliceAdapter(6, 4)
    x = torch.randn(10, 2, 3, 6)
    assert torch.equal(adapter(x, 5), x)
    nn.init.normal_(adapter.up.weight)
    z = adapter.down(F.layer_norm(x, (6,), adapter.norm.weight, adapter.norm.bias, 1e-6)).view(2, 5, 2, 3, 4)
    padded = torch.cat([torch.zeros(2, 1, 2, 3, 4), z, torch.zeros(2, 1, 2, 3, 4)], 1)
    kernel = adapter.conv.weight[..., 0, 0]
    mixed = adapter.conv.bias + sum(padded[:, i : i + 5] @ kernel[:, :, i].T for i in range(3))
    torch.testing.assert_close(adapter(x, 5), x + adapter.up(F.gelu(mixed)).view(x.shape), rtol=1e-5, atol=1e-5)
