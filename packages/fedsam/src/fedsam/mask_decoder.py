"""SAM's mask decoder with one mask token per class and, if wanted, logits at the resolution of the input."""

import torch
from segment_anything.modeling import MaskDecoder as PublishedMaskDecoder
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from fedsam.lora import QueryValueLora, add_low_rank
from fedsam.sizes import Size

_LEAST_CHANNELS = 8


class DecoderAttention(QueryValueLora):
    """An attention module of the published decoder that can carry LoRA; names of its weights are unchanged."""

    def __init__(self, plain: Attention) -> None:
        super().__init__()
        self.heads = plain.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = plain.q_proj, plain.k_proj, plain.v_proj, plain.out_proj

    def query_value_weights(self) -> tuple[Tensor, Tensor]:
        return self.q_proj.weight, self.v_proj.weight

    def project(self, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The projected queries and values."""
        if self.lora is None:
            return self.q_proj(q), self.v_proj(v)
        if self.lora.dora:
            query, value = self.adapted_weights()
            return F.linear(q, query, self.q_proj.bias), F.linear(v, value, self.v_proj.bias)
        alpha = self.lora.alpha
        return (
            add_low_rank(self.q_proj(q), q, *self.factors("q"), alpha),
            add_low_rank(self.v_proj(v), v, *self.factors("v"), alpha),
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (N or 1, T, width) attend to keys and values (N, L, width); returns (N, T, width)."""
        k = self.k_proj(k)
        q, v = self.project(q, v)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q.expand(len(k), -1, -1, -1), k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


def upscaling(width: int, stages: int) -> nn.Sequential:
    """Transposed 2x2 convolutions of stride 2, each followed by a norm and GELU, the last by GELU alone.

    The first quarters the channels, each other halves them, to no fewer than 8. Two stages are the published SAM's; the
    first two of four differ from those only in the norm after the second, so modules 0, 1 and 3 are the same in both.
    """
    channels = [width] + [max(width // 2 ** (stage + 2), _LEAST_CHANNELS) for stage in range(stages)]
    layers: list[nn.Module] = []
    for stage in range(stages):
        layers.append(nn.ConvTranspose2d(channels[stage], channels[stage + 1], 2, stride=2))
        if stage < stages - 1:
            layers.append(LayerNorm2d(channels[stage + 1]))
        layers.append(nn.GELU())
    return nn.Sequential(*layers)


class MaskDecoder(PublishedMaskDecoder):
    """The published decoder with C + 1 mask tokens, all of whose masks are returned.

    Args:
        size: Measures of the model.
        num_masks: C + 1 mask tokens: the background's, then one per foreground class.
        upsampling: 4 as published, or 16: four up-sampling stages (FLAP-SAM).
    """

    def __init__(self, size: Size, num_masks: int, upsampling: int = 16) -> None:
        width = size.prompt_width
        super().__init__(
            transformer_dim=width,
            transformer=TwoWayTransformer(2, width, size.decoder_heads, size.decoder_mlp),
            num_multimask_outputs=num_masks - 1,
            iou_head_hidden_dim=width,
        )
        self.output_upscaling = upscaling(width, {4: 2, 16: 4}[upsampling])
        last = self.output_upscaling[-2].out_channels
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(width, width, last, 3) for _ in range(num_masks))
        for layer in self.transformer.layers:
            for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
                setattr(layer, name, DecoderAttention(getattr(layer, name)))
        self.transformer.final_attn_token_to_image = DecoderAttention(self.transformer.final_attn_token_to_image)

    def forward(self, embeddings: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and predicted overlaps of all masks.

        Prompts of batch 1 serve all images; the tokens then become a batch only where they first meet the images.

        Args:
            embeddings: Image embeddings (N, width, h, w).
            positions: Positional encoding (1, width, h, w).
            sparse: Embedded points and boxes (N or 1, prompts, width).
            dense: Embedded masks (N or 1, width, h, w).

        Returns:
            Logits (N, masks, u*h, u*w) for the up-sampling u, and predicted overlaps (N, masks).
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)
        hidden, image = self.transformer(embeddings + dense, positions, tokens)
        image = image.transpose(1, 2).unflatten(2, embeddings.shape[2:])
        upscaled = self.output_upscaling(image)
        mlps = enumerate(self.output_hypernetworks_mlps)
        hyper = torch.stack([mlp(hidden[:, 1 + index]) for index, mlp in mlps], 1)
        logits = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return logits, self.iou_prediction_head(hidden[:, 0])
