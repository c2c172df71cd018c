"""The model: CLIP with stretched text positions, refined tokens on both sides, and the match of the two sets."""

from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from finelip.clim import (
    LEAKY_SLOPE,
    Direction,
    GlobalTokens,
    Reduction,
    check_options,
    local_scores,
    with_global_tokens,
)
from finelip.positions import Strategy, positions_from_tables, stretch
from finelip.scores import ALPHA, fuse_scores, global_scores
from finelip.token_aggregation import TokenAggregation
from finelip.token_selection import masked_mean, select_of_aggregated, select_then_aggregate, significance
from finelip.tokenizer import true_lengths
from finelip.towers import backbone_config, build_clip, causal_mask, has_quick_gelu, image_tokens, text_tokens
from shared.errors import UsageError

Refinement = Literal[
    "both", "image", "text", "none", "select_aggregate_image", "aggregate_select_image", "select_aggregate_both"
]
"""Which sides are refined, and how; see :class:`FineLIP`."""

LOGIT_SCALE = 4.6052
SELECTED = 0.5


class ImageSet(NamedTuple):
    """Encoded images: ``(B, D)`` global vectors and ``(B, 1 + K, D)`` sets, the global token first."""

    vector: Tensor
    tokens: Tensor


class TextSet(NamedTuple):
    """Encoded texts: ``(B, D)`` global vectors, ``(B, K + 1, D)`` sets, the global token last, and their masks."""

    vector: Tensor
    tokens: Tensor
    mask: Tensor


class CrossNet(nn.Module):
    """The aggregators, under the names of the authors' checkpoints.

    Args:
        dim: Width of the tokens.
        k_image: Refined tokens of an image; ``None``: images are not refined.
        k_text: Of a text, likewise.
    """

    def __init__(self, dim: int, k_image: int | None, k_text: int | None) -> None:
        super().__init__()
        self.aggr_net = None if k_image is None else TokenAggregation(dim, k_image)
        self.cap_aggr_net = None if k_text is None else TokenAggregation(dim, k_text)


class FineLIP(nn.Module):
    """CLIP for long captions.

    Parameters bear the names of OpenAI's CLIP, with ``positional_embedding_res`` and ``cross_net.*`` as in the authors'
    checkpoints. ``positional_embedding`` is frozen; text positions before ``keep`` come from it, the others from
    ``positional_embedding_res``.

    Refinement ``both`` (the paper's), ``image``, ``text`` and ``none`` say which sides are aggregated; a side that is
    not keeps all its tokens. In the others the image set depends on the text: ``select_aggregate_image`` (LAPS) keeps
    the half of the patches that are closest to the mean patch and the mean text token, aggregates them, and adds one
    token that fuses the rest; ``aggregate_select_image`` aggregates first and keeps the better half of what comes out;
    ``select_aggregate_both`` does the first on both sides, where a text's tokens are chosen by the text alone. (The
    authors' code chooses them with the image of the same index, which tells the answer.)

    Args:
        backbone: ``clip_tiny`` or a model of open_clip, see :func:`finelip.towers.backbone_config`; or such a config.
        stretch_by: How text positions are stretched: ``kps``, ``linear``, ``random``, ``none``.
        keep: First positions that stay as they are.
        ratio: New positions for each of the others.
        refinement: Which sides are refined, and how.
        k_image: Refined tokens of an image; ``None``: ``aggr_ratio`` of its patches, rounded down.
        k_text: Refined tokens of a text; ``None``: as many, of the patches too.
        aggr_ratio: See ``k_image``.
        direction: Sums of the local score.
        slope: Factor of negative similarities in the local score.
        reduction: Mean or sum over tokens in the local score.
        global_tokens: On which sides the global token takes part in the local score.
        alpha: Weight of the global score in the fused score.
        tile_bytes: See :func:`finelip.clim.local_scores`.

    Raises:
        UsageError: An option is out of range.
    """

    def __init__(
        self,
        backbone: str | dict[str, Any] = "ViT-B-16-quickgelu",
        stretch_by: Strategy = "kps",
        keep: int = 20,
        ratio: int = 4,
        refinement: Refinement = "both",
        k_image: int | None = None,
        k_text: int | None = None,
        aggr_ratio: float = 0.2,
        direction: Direction = "both",
        slope: float = LEAKY_SLOPE,
        reduction: Reduction = "mean",
        global_tokens: GlobalTokens = "both",
        alpha: float = ALPHA,
        tile_bytes: int | None = None,
    ) -> None:
        super().__init__()
        check_options(direction, reduction, slope)
        if refinement not in get_args(Refinement):
            raise UsageError(f"refinement must be one of {', '.join(get_args(Refinement))}, got {refinement!r}")
        if global_tokens not in get_args(GlobalTokens):
            raise UsageError(f"global_tokens must be one of {', '.join(get_args(GlobalTokens))}, got {global_tokens!r}")
        if not 0 < aggr_ratio <= 1:
            raise UsageError(f"aggr_ratio must lie in (0, 1], got {aggr_ratio}")
        if not 0 <= alpha <= 1:
            raise UsageError(f"alpha must lie in [0, 1], got {alpha}")
        for option, k in (("k_image", k_image), ("k_text", k_text)):
            if k is not None and k < 1:
                raise UsageError(f"{option} must be at least 1, got {k}")
        self.config = backbone_config(backbone) if isinstance(backbone, str) else backbone
        clip = build_clip(self.config)
        self.visual, self.transformer = clip.visual, clip.transformer
        self.token_embedding, self.ln_final = clip.token_embedding, clip.ln_final
        self.text_projection = clip.text_projection
        positions = stretch(clip.positional_embedding, stretch_by, keep, ratio)
        self.positional_embedding = nn.Parameter(positions, requires_grad=False)
        self.positional_embedding_res = nn.Parameter(positions.clone())
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))
        self.stretch_by, self.keep, self.ratio = stretch_by, keep, ratio
        self.refinement = refinement
        self.direction, self.slope, self.reduction = direction, slope, reduction
        self.global_tokens, self.alpha, self.tile_bytes = global_tokens, alpha, tile_bytes
        fallback = int(aggr_ratio * self.patches + 1e-6)
        image, text = refinement not in ("none", "text"), refinement in ("both", "text", "select_aggregate_both")
        self.cross_net = CrossNet(
            self.dim,
            (fallback if k_image is None else k_image) if image else None,
            (fallback if k_text is None else k_text) if text else None,
        )
        self.register_buffer("causal_mask", causal_mask(len(positions)), persistent=False)
        self.causal_mask: Tensor

    # ------------------------------------------------------------------ what it is

    @property
    def dim(self) -> int:
        """Width ``D`` of the joint space."""
        return cast(int, self.text_projection.shape[1])

    @property
    def patches(self) -> int:
        """Patches ``P`` of an image."""
        return len(self.visual.positional_embedding) - 1

    @property
    def context_length(self) -> int:
        """Slots of a text."""
        return len(self.positional_embedding_res)

    @property
    def image_size(self) -> int:
        """Side ``S`` of an image in pixels."""
        return int(self.visual.image_size[0])

    @property
    def quick_gelu(self) -> bool:
        """Whether the towers use OpenAI's activation."""
        return has_quick_gelu(self.visual)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments that, with the backbone, build a model of the same shapes and scores."""
        net = self.cross_net
        return {
            "stretch_by": self.stretch_by,
            "keep": self.keep,
            "ratio": self.ratio,
            "refinement": self.refinement,
            "k_image": None if net.aggr_net is None else net.aggr_net.k,
            "k_text": None if net.cap_aggr_net is None else net.cap_aggr_net.k,
            "direction": self.direction,
            "slope": self.slope,
            "reduction": self.reduction,
            "global_tokens": self.global_tokens,
            "alpha": self.alpha,
        }

    @property
    def pairwise(self) -> bool:
        """Whether an image's refined set depends on the text it is compared with."""
        return self.refinement not in ("both", "image", "text", "none")

    def refinement_parameters(self) -> list[nn.Parameter]:
        """Those of the aggregators, which have a learning rate of their own."""
        return list(self.cross_net.parameters())

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All other trained ones."""
        own = {id(p) for p in self.cross_net.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in own]

    # ------------------------------------------------------------------ tokens

    def image_tokens(self, images: Tensor) -> Tensor:
        """``(B, 1 + P, D)`` projected tokens of ``(B, 3, S, S)`` normalised images; token 0 is CLIP's embedding."""
        return image_tokens(self.visual, images)

    def text_tokens(self, ids: Tensor) -> Tensor:
        """``(B, L, D)`` projected tokens of ``(B, L)`` texts.

        Raises:
            UsageError: ``L`` is more than :attr:`context_length`.
        """
        length = ids.shape[1]
        positions = positions_from_tables(self.positional_embedding, self.positional_embedding_res, self.keep, length)
        parts = (self.token_embedding, self.transformer, self.ln_final, self.text_projection)
        return text_tokens(ids, positions, *parts, self.causal_mask[:length, :length])

    # ------------------------------------------------------------------ sets

    def refine_image(self, tokens: Tensor) -> ImageSet:
        """Global vectors and sets from ``(B, 1 + P, D)`` tokens.

        Where the set depends on the text (:attr:`pairwise`), it is all the tokens, not yet normalised.
        """
        vector = F.normalize(tokens[:, 0], dim=-1)
        if self.pairwise:
            return ImageSet(vector, tokens)
        if self.cross_net.aggr_net is not None:
            tokens = torch.cat([tokens[:, :1], self.cross_net.aggr_net(tokens[:, 1:])], 1)
        return ImageSet(vector, F.normalize(tokens, dim=-1))

    def refine_text(self, tokens: Tensor, lengths: Tensor) -> TextSet:
        """Global vectors, sets and masks from ``(B, L, D)`` tokens of texts of such lengths.

        The end token is the global one; the others, the start token among them, are refined.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        end = tokens[rows, lengths - 1]
        body = tokens[:, :-1]
        mask = torch.arange(body.shape[1], device=tokens.device) < (lengths - 1)[:, None]
        aggregator = self.cross_net.cap_aggr_net
        if self.refinement == "select_aggregate_both":
            assert aggregator is not None
            body, mask = select_then_aggregate(body, aggregator, significance(body, mask), SELECTED, mask)
        elif aggregator is not None:
            body = aggregator(body, mask)
            mask = mask.new_ones(body.shape[:2])
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return TextSet(F.normalize(end, dim=-1), F.normalize(torch.cat([body, end[:, None]], 1), dim=-1), mask)

    def encode_image(self, images: Tensor) -> ImageSet:
        """``(B, D)`` global vectors and ``(B, 1 + K, D)`` sets of ``(B, 3, S, S)`` normalised images."""
        return self.refine_image(self.image_tokens(images))

    def encode_text(self, ids: Tensor, lengths: Tensor | None = None) -> TextSet:
        """``(B, D)`` global vectors, ``(B, K + 1, D)`` sets and ``(B, K + 1)`` masks of texts.

        Args:
            ids: ``(B, L)``, zero padded.
            lengths: ``(B,)`` used slots; ``None``: found by the end token.

        Raises:
            UsageError: A text has no end token, or too many tokens.
        """
        return self.refine_text(self.text_tokens(ids), true_lengths(ids) if lengths is None else lengths)

    # ------------------------------------------------------------------ scores

    def local_scores(self, image_set: Tensor, text_set: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """``(N, M)`` local scores ``R`` of image sets with text sets, both of this model."""
        if not self.pairwise:
            images, texts, mask = with_global_tokens(image_set, text_set, text_mask, self.global_tokens)
            return local_scores(images, texts, None, mask, **self._clim())
        columns = []
        for j in range(len(text_set)):
            one = (image_set, text_set[j : j + 1], None if text_mask is None else text_mask[j : j + 1])
            # Every text makes image sets of its own, which are made again in the backward pass rather than kept.
            column = checkpoint(self._column, *one, use_reentrant=False) if torch.is_grad_enabled() else None
            columns.append(self._column(*one) if column is None else column)
        return torch.cat(columns, 1)

    def _column(self, tokens: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """Scores of all images with one text, for which their sets are made."""
        aggregator = self.cross_net.aggr_net
        assert aggregator is not None
        mean = masked_mean(text, mask).detach()
        patches = tokens[:, 1:]
        there = None
        if self.refinement == "aggregate_select_image":
            refined = select_of_aggregated(aggregator(patches), mean, SELECTED)
        else:
            scores = significance(patches, text=mean)
            refined, there = select_then_aggregate(patches, aggregator, scores, SELECTED)
            there = torch.cat([there.new_ones(len(there), 1), there], 1)
        images = F.normalize(torch.cat([tokens[:, :1], refined], 1), dim=-1)
        if self.global_tokens in ("none", "text"):
            there = None if there is None else there[:, 1:]
        images, text, mask = with_global_tokens(images, text, mask, self.global_tokens)
        return local_scores(images, text, there, mask, **self._clim())

    def _clim(self) -> dict[str, Any]:
        return {
            "direction": self.direction,
            "slope": self.slope,
            "reduction": self.reduction,
            "tile_bytes": self.tile_bytes,
        }

    def fused_scores(
        self,
        image_vectors: Tensor,
        image_set: Tensor,
        text_vectors: Tensor,
        text_set: Tensor,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """``(N, M)`` fused scores; with ``alpha`` 1 the sets are not looked at."""
        coarse = global_scores(image_vectors, text_vectors)
        if self.alpha == 1:
            return coarse
        return fuse_scores(coarse, self.local_scores(image_set, text_set, text_mask), self.alpha)

    def forward(self, images: Tensor, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """``(N, M)`` fused scores of images and texts."""
        return self.fused_scores(*self.encode_image(images), *self.encode_text(ids, lengths))
