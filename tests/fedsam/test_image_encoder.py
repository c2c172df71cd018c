from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from fedsam.image_encoder import ImageEncoder, relative_attention, relative_attention_reference
from fedsam.sizes import Size

SMALL = Size(24, 2, 3, (1,), mlp_ratio=2.0, window=4, prompt_width=16, patch=4)


@pytest.mark.parametrize("size", [(4, 4), (3, 7), (1, 5), (14, 14)])
def test_fused_attention_is_the_published_formula(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    h, w = size
    inputs = [torch.randn(2, 3, h * w, 8, requires_grad=True) for _ in range(3)]
    inputs += [torch.randn(2 * side - 1, 8, requires_grad=True) for side in size]
    weight = torch.randn(2, 3, h * w, 8)
    answers = [attend(*inputs, size) for attend in (relative_attention, relative_attention_reference)]
    gradients = [torch.autograd.grad((answer * weight).sum(), inputs) for answer in answers]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)
    for fused, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, reference, rtol=1e-5, atol=1e-5 * max(1.0, reference.abs().max().item()))


def test_the_formula_pair_by_pair() -> None:
    torch.manual_seed(1)
    h, w, c = 2, 3, 4
    q, k, v = torch.randn(3, 1, 1, h * w, c)
    rows, columns = torch.randn(2 * h - 1, c), torch.randn(2 * w - 1, c)
    expected = torch.empty(h * w, c)
    for i in range(h * w):
        logits = torch.stack(
            [
                q[0, 0, i] @ k[0, 0, j] / c**0.5
                + q[0, 0, i] @ rows[i // w - j // w + h - 1]
                + q[0, 0, i] @ columns[i % w - j % w + w - 1]
                for j in range(h * w)
            ]
        )
        expected[i] = logits.softmax(0) @ v[0, 0]
    torch.testing.assert_close(relative_attention(q, k, v, rows, columns, (h, w))[0, 0], expected)


@pytest.mark.parametrize("kind", ["sdpa", "reference"])
@pytest.mark.parametrize("side", [4, 6])  # one window, and windows that need padding
def test_the_encoder_is_the_published_one(kind: Any, side: int) -> None:
    torch.manual_seed(2)
    encoder = ImageEncoder(SMALL, side * SMALL.patch, kind)
    published = ImageEncoderViT(
        img_size=side * SMALL.patch,
        patch_size=SMALL.patch,
        embed_dim=SMALL.width,
        depth=SMALL.depth,
        num_heads=SMALL.heads,
        mlp_ratio=SMALL.mlp_ratio,
        out_chans=SMALL.prompt_width,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=SMALL.window,
        global_attn_indexes=SMALL.global_blocks,
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.3)
    published.load_state_dict(encoder.state_dict())
    images = torch.rand(2, 3, side * SMALL.patch, side * SMALL.patch)
    answers = [model(images) for model in (encoder, published)]
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)
    for answer in answers:
        answer.square().sum().backward()
    theirs = dict(published.named_parameters())
    for name, parameter in encoder.named_parameters():
        expected = theirs[name].grad
        assert parameter.grad is not None
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-5 * scale, msg=name)
