"""SAM's image encoder with room for LoRA, FacT and adapters, and an attention that needs little memory."""

from functools import partial
from typing import Literal

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, add_decomposed_rel_pos, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from fedsam.adapter3d import AdaptedBlock
from fedsam.fact import SharedFactors
from fedsam.lora import QueryValueLora, add_product
from fedsam.sizes import Size

AttentionKind = Literal["sdpa", "reference"]

# Fused kernels want the width of queries to be a multiple of this.
_ALIGNMENT = 16
# Up to so many tokens the published formula takes some 0.7 of the fused kernel's time on a CPU, forward and backward,
# and a (T, T) matrix is smaller than the queries, keys and values with their places appended.
_PLAIN_TOKENS = 64


def relative_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, size: tuple[int, int]
) -> Tensor:
    r"""Attention with decomposed relative positions as the published SAM computes it.

    :math:`\mathrm{softmax}(q_i \cdot k_j / \sqrt{c} + q_i \cdot R^h_{y_i - y_j} + q_i \cdot R^w_{x_i - x_j})\, v_j` for
    tokens i and j at rows y and columns x of the grid.

    Args:
        q: Queries (N, heads, T, c), T = h * w.
        k: Keys of the same shape.
        v: Values of the same shape.
        rel_pos_h: (2h - 1, c).
        rel_pos_w: (2w - 1, c).
        size: ``(h, w)`` of the grid of tokens.

    Returns:
        (N, heads, T, c).
    """
    shape = q.shape
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    attention = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    attention = add_decomposed_rel_pos(attention, q, rel_pos_h, rel_pos_w, size, size)
    return (attention.softmax(-1) @ v).view(shape)


def relative_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, size: tuple[int, int]
) -> Tensor:
    """The same as :func:`relative_attention_reference` through a fused kernel that never stores a (T, T) matrix.

    The bias of a pair depends on the query and on the row or column of the key alone. So the products of a query
    with all rows and columns are appended to it, and the keys get the one-hot row and column on which they lie:
    their inner product is then the biased logit, and no bias has to be stored or differentiated.
    """
    h, w = size
    width = q.shape[-1]
    root = width**0.5
    grid = q.unflatten(2, size)
    rows = torch.einsum("nahwc,hkc->nahwk", grid, root * get_rel_pos(h, h, rel_pos_h)).flatten(2, 3)
    columns = torch.einsum("nahwc,wkc->nahwk", grid, root * get_rel_pos(w, w, rel_pos_w)).flatten(2, 3)
    padding = -(width + h + w) % _ALIGNMENT
    on_row = torch.eye(h, dtype=k.dtype, device=k.device).repeat_interleave(w, 0)
    on_column = torch.eye(w, dtype=k.dtype, device=k.device).repeat(h, 1)
    place = F.pad(torch.cat([on_row, on_column], 1), (0, padding))
    queries = torch.cat([q, rows, columns, q.new_zeros(*q.shape[:-1], padding)], -1)
    keys = torch.cat([k, place.expand(*k.shape[:-1], -1)], -1)
    values = F.pad(v, (0, h + w + padding))
    return F.scaled_dot_product_attention(queries, keys, values, scale=1 / root)[..., :width]


class EncoderAttention(QueryValueLora):
    """An attention module of the published encoder that can carry LoRA or FacT; names of its weights are unchanged.

    Args:
        plain: The module whose weights it takes over.
        kind: ``sdpa`` (:func:`relative_attention`; on a CPU the formula itself for up to 64 tokens, where it is the
            faster one) or ``reference``.
    """

    def __init__(self, plain: Attention, kind: AttentionKind = "sdpa") -> None:
        super().__init__()
        self.heads = plain.num_heads
        self.qkv, self.proj = plain.qkv, plain.proj
        self.rel_pos_h, self.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w
        self.kind = kind
        self._shared: tuple[SharedFactors, ...] = ()  # a tuple, so that only the encoder registers them

    def add_fact(self, shared: SharedFactors) -> None:
        """Give both projections a core of the encoder's shared factors."""
        self._shared = (shared,)
        self.fact_q, self.fact_v = shared.core(), shared.core()

    def query_value_weights(self) -> tuple[Tensor, Tensor]:
        query, _, value = self.qkv.weight.chunk(3)
        return query, value

    def adapted_weights(self) -> tuple[Tensor, Tensor]:
        """What the query and value projections amount to, LoRA, DoRA and FacT included."""
        query, value = super().adapted_weights()
        for shared in self._shared:
            query, value = query + shared.product(self.fact_q), value + shared.product(self.fact_v)
        return query, value

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (…, D), of tokens ``x`` (…, D)."""
        if self.lora is not None and self.lora.dora:
            query, value = QueryValueLora.adapted_weights(self)
            weight = torch.cat([query, self.qkv.weight.chunk(3)[1], value])
            q, k, v = F.linear(x, weight, self.qkv.bias).chunk(3, -1)
        else:
            q, k, v = self.qkv(x).chunk(3, -1)
            if self.lora is not None:
                (a_q, b_q), (a_v, b_v) = self.factors("q"), self.factors("v")
                z_q, z_v = F.linear(x, torch.cat([a_q, a_v])).split([len(a_q), len(a_v)], -1)
                q = add_product(q, z_q, b_q, self.lora.alpha)
                v = add_product(v, z_v, b_v, self.lora.alpha)
        for shared in self._shared:
            gain_q, gain_v = shared(x, self.fact_q, self.fact_v)
            q, v = q + gain_q, v + gain_v
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, h, w, D), a whole grid or one window each, to tokens of the same shape."""
        n, h, w, _ = x.shape
        q, k, v = (t.reshape(n, h * w, self.heads, -1).transpose(1, 2) for t in self.project(x))
        plain = self.kind == "reference" or (x.device.type == "cpu" and h * w <= _PLAIN_TOKENS)
        attend = relative_attention_reference if plain else relative_attention
        mixed = attend(q, k, v, self.rel_pos_h, self.rel_pos_w, (h, w))
        return self.proj(mixed.transpose(1, 2).reshape(n, h, w, -1))


class ImageEncoder(ImageEncoderViT):
    """The published encoder, unchanged but for what it can carry.

    Args:
        size: Its measures.
        image_size: Side of the images in pixels, a multiple of the patch.
        attention: See :class:`EncoderAttention`.
    """

    blocks: nn.ModuleList

    def __init__(self, size: Size, image_size: int, attention: AttentionKind = "sdpa") -> None:
        super().__init__(
            img_size=image_size,
            patch_size=size.patch,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            mlp_ratio=size.mlp_ratio,
            out_chans=size.prompt_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=size.window,
            global_attn_indexes=size.global_blocks,
        )
        self.width = size.width
        for block in self.blocks:
            block.attn = EncoderAttention(block.attn, attention)

    def add_fact(self, rank: int, dropout: float) -> None:
        """Give every block FacT cores."""
        self.fact = SharedFactors(self.width, rank, dropout)
        for module in self.modules():
            if isinstance(module, EncoderAttention):
                module.add_fact(self.fact)

    def add_adapters(self, channels: int) -> None:
        """Give every block two adapters between slices."""
        self.blocks = nn.ModuleList(AdaptedBlock(block, channels) for block in self.blocks)

    def forward(self, x: Tensor, slices: int = 1) -> Tensor:
        """Images (N, 3, S, S) to embeddings (N, prompt width, S/16, S/16).

        Args:
            x: The images; with adapters the ``slices`` of a sample follow each other.
            slices: Neighbouring slices per sample.
        """
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, slices) if isinstance(block, AdaptedBlock) else block(x)
        return self.neck(x.permute(0, 3, 1, 2))
