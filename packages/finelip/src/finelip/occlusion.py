"""Where a picture shows what a part of a text says: what hiding both takes from the score, beyond either alone."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from finelip.finelip import FineLIP
from finelip.tokenizer import cut_to_longest, true_lengths

BATCH = 64
MOST_CELLS = 12
"""Rows and columns of a map at most: a picture is encoded once for every cell."""


class Interplay(NamedTuple):
    """What :func:`interplay` finds.

    Attributes:
        score: Fused score of picture and text.
        drops: ``(U,)`` what leaving a part of the text out takes from it.
        maps: ``(U, g, g)`` interplay of each part with each cell of the picture.
    """

    score: float
    drops: Tensor
    maps: Tensor


def with_cells_hidden(image: Tensor, cells: int) -> Tensor:
    """``(g^2, 3, S, S)`` copies of a ``(3, S, S)`` picture, a cell of a ``g x g`` grid in its mean colour in each.

    Example:
        >>> with_cells_hidden(torch.eye(4).expand(3, 4, 4), 2)[1, 0].tolist()[:2]
        [[1.0, 0.0, 0.25, 0.25], [0.0, 1.0, 0.25, 0.25]]
    """
    size = image.shape[-1]
    edges = [round(size * n / cells) for n in range(cells + 1)]
    copies = image.repeat(cells**2, 1, 1, 1)
    mean = image.mean((1, 2))[:, None, None]
    for place, copy in enumerate(copies):
        row, column = divmod(place, cells)
        copy[:, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean
    return copies


def with_parts_left_out(ids: Tensor, length: int, parts: Sequence[slice]) -> Tensor:
    """``(U, L)`` copies of one text, without one of its parts in each; what follows moves up.

    Example:
        >>> with_parts_left_out(torch.tensor([1, 5, 6, 7, 2]), 5, [slice(1, 2), slice(2, 4)]).tolist()
        [[1, 6, 7, 2, 0], [1, 5, 2, 0, 0]]
    """
    rows = torch.zeros(len(parts), length, dtype=ids.dtype)
    for row, part in zip(rows, parts, strict=True):
        rest = torch.cat([ids[: part.start], ids[part.stop : length]])
        row[: len(rest)] = rest
    return rows


@torch.no_grad()
def interplay(
    model: FineLIP, image: Tensor, ids: Tensor, length: int, parts: Sequence[slice], cells: int | None = None
) -> Interplay:
    r"""How much more a cell of the picture is worth to a text with one of its parts than without it.

    .. math:: I_{up} = \bigl[F(x, t) - F(x_{\setminus p}, t)\bigr] - \bigl[F(x, t_{\setminus u}) -
        F(x_{\setminus p}, t_{\setminus u})\bigr]

    with the fused score ``F``, the picture ``x`` without cell ``p`` and the text ``t`` without part ``u``. Where a
    trained model matches picture and text as wholes, words and patches have no part in its score, and yet this finds
    what it saw: attention carries it into class and end token. Any refinement will do.

    Args:
        model: In evaluation mode, on the CPU.
        image: ``(3, S, S)``, normalised.
        ids: ``(L',)``.
        length: Used slots.
        parts: Slots of each part, within ``1 .. length - 1``.
        cells: Rows and columns of the maps; ``None``: those of the patches, at most :data:`MOST_CELLS`.
    """
    cells = min(round(model.patches**0.5), MOST_CELLS) if cells is None else cells
    pictures = torch.cat([image[None], with_cells_hidden(image, cells)])
    texts = torch.cat([ids[None, :length], with_parts_left_out(ids, length, parts)])
    images = [model.encode_image(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
    blocks = []
    for start in range(0, len(texts), BATCH):
        rows = texts[start : start + BATCH]
        text = model.encode_text(cut_to_longest(rows, true_lengths(rows)))
        blocks.append(torch.cat([model.fused_scores(*seen, *text) for seen in images]))
    scores = torch.cat(blocks, 1)  # (1 + cells^2, 1 + parts), the whole ones first
    lost = scores[:1] - scores[1:]
    maps = (lost[:, :1] - lost[:, 1:]).T.reshape(len(parts), cells, cells)
    return Interplay(float(scores[0, 0]), scores[0, 0] - scores[0, 1:], maps)
