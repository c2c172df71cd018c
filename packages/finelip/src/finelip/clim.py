"""Cross-modal late interaction: every image set against every text set by the best match of each token.

The product of all tokens with all tokens is never held: it is made in tiles, from each of which maxima are taken, and
the gradient needs no more than the positions of these maxima. So memory is that of the sets, of the ``B x B`` scores
and, in training, of one or two index bytes per token and pair.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from shared.errors import UsageError

Direction = Literal["both", "t2i", "i2t"]
Reduction = Literal["mean", "sum"]
GlobalTokens = Literal["both", "none", "image", "text"]

LEAKY_SLOPE = 0.1

TILE_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
"""Default size of a tile of similarities: measured on a CPU, and what fills a GPU."""

LANES = 16
"""Images of a tile are a multiple of this: maxima run over them, and whole vector registers are faster."""

TRAINING_TILES = 4
"""In training tiles are so many times smaller, to be little beside the gradients."""


def check_options(direction: str, reduction: str, slope: float) -> None:
    """Refuse options that :func:`local_scores` does not know.

    Raises:
        UsageError: Names the option.
    """
    if direction not in get_args(Direction):
        raise UsageError(f"clim direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
    if reduction not in get_args(Reduction):
        raise UsageError(f"clim reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
    if not 0 < slope <= 1:
        raise UsageError(f"clim slope must lie in (0, 1], got {slope}")


def local_scores(
    images: Tensor,
    texts: Tensor,
    image_mask: Tensor | None = None,
    text_mask: Tensor | None = None,
    *,
    direction: Direction = "both",
    slope: float = LEAKY_SLOPE,
    reduction: Reduction = "mean",
    tile_bytes: int | None = None,
) -> Tensor:
    r"""Score of every image with every text, ``R``, with exact gradients.

    .. math:: S_{ji} = \phi(t_j \cdot v_i), \qquad
        R = \frac1b \sum_j \max_i S_{ji} + \frac1a \sum_i \max_j S_{ji}

    over the ``a`` tokens ``v`` of the image and the ``b`` tokens ``t`` of the text; :math:`\phi` multiplies what is
    negative by ``slope``. For unit vectors and the default slope, :math:`-0.2 \le R \le 2`. Where several tokens match
    equally well, the gradient goes to one of them.

    Scores are sums in float32 (float64 for such sets) of products in the precision of the sets, in autocast too.

    Source: FineLIP, section 3.4; the slope is in the authors' code alone (``slope=1`` is the paper's formula).

    Args:
        images: ``(N, a, D)``, normalised.
        texts: ``(M, b, D)``, normalised.
        image_mask: ``(N, a)``, true where a token is no padding; ``None``: all are.
        text_mask: ``(M, b)``, likewise.
        direction: ``t2i``: the first sum alone; ``i2t``: the second; or ``both``.
        slope: Factor of negative similarities; 1 leaves them.
        reduction: Mean over the tokens as above, or their sum.
        tile_bytes: Upper bound of a tile of similarities, as far as one pair fits in; changes nothing but speed.

    Returns:
        ``(N, M)``.

    Raises:
        UsageError: The shapes do not fit, a set has no token, or an option is out of range.

    Example:
        >>> v, t = torch.eye(2)[None], torch.tensor([[[0.6, 0.8]]])
        >>> round(local_scores(v, t).item(), 4), round(local_scores(-v, t).item(), 4)
        (1.5, -0.13)
    """
    check_options(direction, reduction, slope)
    for name, sets, mask in (("images", images, image_mask), ("texts", texts, text_mask)):
        if sets.ndim != 3 or sets.shape[-1] != images.shape[-1] or sets.shape[1] == 0:
            raise UsageError(f"{name} must be (sets, tokens, {images.shape[-1]}), got {tuple(sets.shape)}")
        if mask is not None and (mask.shape != sets.shape[:2] or not mask.any(1).all()):
            raise UsageError(f"the mask of {name} must be {tuple(sets.shape[:2])} with a token in every set")
    dtype = torch.promote_types(images.dtype, texts.dtype)
    trains = torch.is_grad_enabled() and (images.requires_grad or texts.requires_grad)
    budget = TILE_BYTES.get(images.device.type, TILE_BYTES["cpu"]) // (TRAINING_TILES if trains else 1)
    tile = tile_shape(images, texts, dtype, budget if tile_bytes is None else tile_bytes)
    image_weights, text_weights = (
        token_weights(sets, mask, reduction) for sets, mask in ((images, image_mask), (texts, text_mask))
    )
    with torch.autocast(images.device.type, enabled=False):
        scores: Tensor = _LocalScores.apply(
            without_padding(images.to(dtype), image_mask),
            without_padding(texts.to(dtype), text_mask),
            image_weights if direction != "t2i" else None,
            text_weights if direction != "i2t" else None,
            slope,
            tile,
        )
    return scores


def without_padding(sets: Tensor, mask: Tensor | None) -> Tensor:
    """The sets with a copy of their own first token in the place of padding: no maximum changes."""
    if mask is None:
        return sets
    first = mask.int().argmax(1)
    own = sets[torch.arange(len(sets), device=sets.device), first]
    return torch.where(mask[..., None], sets, own[:, None])


def token_weights(sets: Tensor, mask: Tensor | None, reduction: Reduction) -> Tensor:
    """``(N, a)`` weight of each token in the sum: 0 for padding, and 1 or 1 over the tokens of the set."""
    dtype = torch.promote_types(sets.dtype, torch.float32)
    weights = sets.new_ones(sets.shape[:2], dtype=dtype) if mask is None else mask.to(dtype)
    return weights / weights.sum(1, keepdim=True) if reduction == "mean" else weights


class Tile(NamedTuple):
    """So many images by so many texts are scored at once."""

    images: int
    texts: int


def tile_shape(images: Tensor, texts: Tensor, dtype: torch.dtype, budget: int) -> Tile:
    """The tile whose similarities fill the budget, about as many token rows as columns; at least one pair."""
    tokens = budget // dtype.itemsize
    wide = int(tokens**0.5) // images.shape[1]
    if wide > LANES:
        wide -= wide % LANES
    wide = max(1, min(len(images), wide))
    return Tile(wide, max(1, min(len(texts), tokens // (wide * images.shape[1] * texts.shape[1]))))


def index_dtype(tokens: int) -> torch.dtype:
    """The smallest type that holds a token's index and its bitwise complement."""
    return next(t for t in (torch.int8, torch.int16, torch.int32) if tokens <= torch.iinfo(t).max)


def encode(best: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """The index of the best match, complemented where the match is not positive: one number tells both."""
    return torch.where(best > 0, index, ~index).to(dtype)


def decode(code: Tensor, slope: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Index of the best match, and the derivative of the leaky identity there."""
    code = code.long()
    negative = code < 0
    return torch.where(negative, ~code, code), 1 - (1 - slope) * negative.to(dtype)


def leaky(best: Tensor, slope: float, dtype: torch.dtype) -> Tensor:
    """Multiply what is negative by ``slope``; monotone, so it may follow the maximum."""
    best = best.to(dtype)
    return best if slope == 1 else torch.nn.functional.leaky_relu(best, slope)


def token_major(sets: Tensor, place: Tensor) -> Tensor:
    """``(a n, D)`` tokens of ``(n, a, D)`` sets, token by token, written into ``place``."""
    n, a, d = sets.shape
    place[: sets.numel()].view(a, n, d).copy_(sets.transpose(0, 1))
    return place[: sets.numel()].view(-1, d)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to ``total``, without a place of its own where the precisions are equal."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class _LocalScores(torch.autograd.Function):
    """See :func:`local_scores`.

    In a tile the columns run over tokens first and images second, so that both maxima are over strided rows of
    contiguous numbers, which processors take at the speed of memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        image_weights: Tensor | None,
        text_weights: Tensor | None,
        slope: float,
        tile: Tile,
    ) -> Tensor:
        (n, a, d), (m, b, _) = images.shape, texts.shape
        dtype = torch.promote_types(images.dtype, torch.float32)
        trains = any(ctx.needs_input_grad)
        scores = images.new_zeros(n, m, dtype=dtype)
        of_text = texts.new_empty((m, b, n) if trains and text_weights is not None else 0, dtype=index_dtype(a))
        of_image = images.new_empty((m, a, n) if trains and image_weights is not None else 0, dtype=index_dtype(b))
        # Places that every tile uses again: fresh ones would leave holes in the memory.
        product = images.new_empty(tile.texts * b * a * tile.images)
        place = images.new_empty(a * tile.images * d)
        for i in range(0, n, tile.images):
            v = images[i : i + tile.images]
            columns = token_major(v, place)
            for j in range(0, m, tile.texts):
                t = texts[j : j + tile.texts]
                flat = product[: len(t) * b * len(columns)].view(len(t) * b, len(columns))
                torch.mm(t.reshape(-1, d), columns.T, out=flat)
                similarities = flat.view(len(t), b, a, len(v))
                part = scores[i : i + tile.images, j : j + tile.texts]
                if text_weights is not None:
                    if trains:
                        best, index = similarities.max(2)
                        of_text[j : j + tile.texts, :, i : i + tile.images] = encode(best, index, of_text.dtype)
                    else:
                        best = similarities.amax(2)  # (m, b, n)
                    part += torch.einsum("mbn,mb->nm", leaky(best, slope, dtype), text_weights[j : j + tile.texts])
                if image_weights is not None:
                    if trains:
                        best, index = similarities.max(1)
                        of_image[j : j + tile.texts, :, i : i + tile.images] = encode(best, index, of_image.dtype)
                    else:
                        best = similarities.amax(1)  # (m, a, n)
                    part += torch.einsum("man,na->nm", leaky(best, slope, dtype), image_weights[i : i + tile.images])
        ctx.save_for_backward(images, texts, image_weights, text_weights, of_image, of_text)
        ctx.slope, ctx.tile = slope, tile
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        images, texts, image_weights, text_weights, of_image, of_text = ctx.saved_tensors
        (n, a, d), (m, b, _) = images.shape, texts.shape
        tile, slope = ctx.tile, ctx.slope
        grad_images = torch.zeros_like(images, dtype=grad.dtype) if ctx.needs_input_grad[0] else None
        grad_texts = torch.zeros_like(texts, dtype=grad.dtype) if ctx.needs_input_grad[1] else None
        flows = grad.new_empty(tile.texts * b * a * tile.images)
        place = images.new_empty(a * tile.images * d)
        totals = grad.new_empty(a * tile.images * d)
        for i in range(0, n, tile.images):
            rows = slice(i, i + tile.images)
            columns = token_major(images[rows], place)
            of_columns = totals[: columns.numel()].view_as(columns).zero_()
            for j in range(0, m, tile.texts):
                cols = slice(j, j + tile.texts)
                t = texts[cols].reshape(-1, d)
                pairs = grad[rows, cols].T  # (m, n)
                flow = flows[: len(t) * len(columns)].view(len(pairs), b, a, pairs.shape[1]).zero_()
                if text_weights is not None:
                    index, derivative = decode(of_text[cols, :, rows], slope, grad.dtype)
                    into = derivative * pairs[:, None] * text_weights[cols, :, None]
                    flow.scatter_(2, index[:, :, None], into[:, :, None])
                if image_weights is not None:
                    index, derivative = decode(of_image[cols, :, rows], slope, grad.dtype)
                    into = derivative * pairs[:, None] * image_weights[rows].T[None]
                    flow.scatter_add_(1, index[:, None], into[:, None])
                flat = flow.view(len(t), -1).to(images.dtype)
                if grad_texts is not None:
                    add_product(grad_texts[cols].view(-1, d), flat, columns)
                if grad_images is not None:
                    add_product(of_columns, flat.T, t)
            if grad_images is not None:
                grad_images[rows] = of_columns.view(a, -1, d).transpose(0, 1)
        return (
            None if grad_images is None else grad_images.to(images.dtype),
            None if grad_texts is None else grad_texts.to(texts.dtype),
            *(None,) * 4,
        )


def with_global_tokens(
    images: Tensor, texts: Tensor, text_mask: Tensor | None, tokens: GlobalTokens = "both"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The sets with or without their global tokens, which are the first of an image and the last of a text.

    Args:
        images: ``(N, 1 + K, D)``.
        texts: ``(M, K + 1, D)``.
        text_mask: ``(M, K + 1)`` or ``None``.
        tokens: On which side they stay: ``both``, ``none``, ``image`` or ``text``.

    Returns:
        Images, texts, and the mask of the texts.

    Raises:
        UsageError: ``tokens`` is none of the four.
    """
    if tokens not in get_args(GlobalTokens):
        raise UsageError(f"global_tokens must be one of {', '.join(get_args(GlobalTokens))}, got {tokens!r}")
    if tokens in ("none", "text"):
        images = images[:, 1:]
    if tokens in ("none", "image"):
        texts = texts[:, :-1]
        text_mask = None if text_mask is None else text_mask[:, :-1]
    return images, texts, text_mask
